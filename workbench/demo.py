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


def play(step, kernel, disks, vcpus=1):
    """Boot host, guest hypervisor (with `vcpus` vCPUs) and nested guest; returns their rows."""
    scenario = scenarios.named("nested")
    scenario = scenario._replace(name="demo", guest=f"{scenario.guest} --smp {vcpus}")
    reports = scenarios.play(scenario, kernel, disks, on_level=step.progress)
    wrong = scenarios.unexpected(scenario._replace(expect={**scenario.expect, "L1": scenarios.HYPERVISOR}), reports)
    if wrong:
        raise Fail("; ".join(wrong))
    step.done(f"{len(reports)} levels")
    return [row(level, report, "QEMU TCG" if level == "L0" else f"QEMU {images.vmm_version()}")
            for level, report in reports.items()]
