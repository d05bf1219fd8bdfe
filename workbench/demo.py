"""./nest demo: the levels, booted, in a table."""

from . import images, scenarios
from .ui import Fail

# level, where its kernel runs, how it is told apart, its VMM
HEADER = ("level", "kernel", "EL", "mode", "vCPUs", "VMM", "seconds")


def row(level, report, vmm):
    """A level's line of the table, from its report."""
    el = report["el"]
    if level != "L0" and el == "EL2":
        el = "vEL2"
    return {"level": level, "kernel": report["release"], "EL": el, "mode": report["mode"],
            "vCPUs": int(report["cpus"]), "VMM": vmm, "seconds": round(float(report["seconds"]), 1)}


def table(rows):
    """The rows as aligned text."""
    cells = [HEADER] + [tuple(str(row[key]) for key in HEADER) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in cells)


# The host's statistics of the guest hypervisor that the demo shows, and what they count.
STATISTICS = {
    "exits": "exits of the guest hypervisor and its guest",
    "nested_exits_sync": "of these, exceptions of the nested guest that its hypervisor handles",
    "nested_exits_irq": "interrupts of the hypervisor while its guest runs",
    "nested_erets_slow": "entries into the nested guest",
    "nested_shadow_faults": "stage-2 faults of the nested guest that the host solves",
    "nested_tlbis": "TLB invalidations by the hypervisor that trap",
    "nested_maint_irqs": "GIC maintenance interrupts for the hypervisor",
}


def statistics(host):
    """The statistics of the only VM on the host: name -> count."""
    names = " ".join(STATISTICS)
    status, output = host.run(f"cd /sys/kernel/debug/kvm/*-* && for n in {names}; do echo $n $(cat $n); done")
    if status:
        raise Fail(f"the host has no statistics of its guest: {output[-200:]}")
    return {name: int(count) for name, count in (line.split() for line in output.splitlines())}


def told(rows):
    """The guest hypervisor's statistics as text."""
    return "\n".join(f"{rows[1]['statistics'][name]:9}  {text}" for name, text in STATISTICS.items())


def play(step, kernel, disks, vcpus=1, e2h0=False):
    """Boot host, guest hypervisor (with `vcpus` vCPUs) and nested guest; returns their rows.

    The guest hypervisor's has its statistics, too.  e2h0: it has no VHE, which takes nestvm.
    """
    scenario = scenarios.named("nested-nvhe" if e2h0 else "nested")
    # A second before the hypervisor powers off, so that its statistics can be read.
    guest = scenarios.NESTVM.format("1; sleep 1") + " --e2h0" if e2h0 else scenarios.NESTED.format("1; sleep 1")
    scenario = scenario._replace(name="demo", guest=f"{guest} --smp {vcpus}",
                                 expect={"L0": scenarios.HYPERVISOR,
                                         "L1": scenarios.NVHE if e2h0 else scenarios.HYPERVISOR,
                                         "L2": scenarios.ORDINARY})
    counts = {}
    reports = scenarios.play(scenario, kernel, disks, on_level=step.progress,
                             inspect=lambda host: counts.update(statistics(host)))
    wrong = scenarios.unexpected(scenario, reports)
    if wrong:
        raise Fail("; ".join(wrong))
    step.done(f"{len(reports)} levels")
    vmm = "nestvm" if e2h0 else f"QEMU {images.vmm_version()}"
    rows = [row(level, report, "QEMU TCG" if level == "L0" else vmm)
            for level, report in reports.items()]
    rows[1]["statistics"] = counts
    return rows
