"""./nest demo: the levels, booted, in a table."""

from .emulator import Machine, cpu_model
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
    with Machine(kernel, disks, "demo", cpu=cpu_model("max"), smp=2, memory=3072) as host:
        step.progress("host")
        rows = [row("L0", host.boot(), "QEMU TCG")]
        _, version = host.run("qemu-system-aarch64 --version | sed -n 's/.*version \\([0-9.]*\\).*/\\1/p'")
        step.progress("guest hypervisor")
        host.start(f"/nest/guest L1 --el2 --root --smp {vcpus} --mem 1024 --job '/nest/guest L2 --mem 256'")
        rows.append(row("L1", host.report("L1", 120), f"QEMU {version}"))
        step.progress("nested guest")
        rows.append(row("L2", host.report("L2", 180), f"QEMU {version}"))
        status, output = host.finish(60, "the guests' power-off")
        if status:
            raise Fail(f"the guest hypervisor's VMM ended with status {status}: {output[-300:]}")
        host.power_off()
    step.done(f"{len(rows)} levels")
    return rows
