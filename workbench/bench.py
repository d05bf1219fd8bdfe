"""./nest bench: what exits cost, in instructions, beside a peer kernel.

Figures are exact instruction counts: one emulated CPU, -icount shift=0, a 1 GHz
counter, so that a tick of the guest's counter is one instruction.
"""

import re

from . import kernel
from .emulator import Machine, cpu_model
from .paths import ROOT
from .ui import Fail, Steps

ICOUNT = "shift=0,sleep=off"


def options(command):
    command.add_argument("--peer")
    command.add_argument("--json")


# The host's two ways to boot: only the second one can have guests with EL2.
MODES = {"default": "", "nested": "kvm-arm.mode=nested"}


def measure(image, disks, name, mode):
    """Instructions per operation of an ordinary guest: operation -> count."""
    with Machine(image, disks, f"bench-{name}", cpu=cpu_model("max", pmu="off"), smp=1, icount=ICOUNT,
                 append="quiet", nested=MODES[mode]) as host:
        host.boot(300)
        status, output = host.run("/nest/bin/exitcost", 300)
        if status:
            raise Fail(f"exitcost failed on the {name} kernel: {output[-300:]}")
        host.power_off()
    return {name: float(ticks) for name, ticks in re.findall(r"^(\S+) ([0-9.]+)$", output, re.M)}


def table(rows):
    """Text of the result rows (host's mode, operation, ours, peer, difference in per cent)."""
    lines = [f"{'ordinary guest, instructions for':34} {'host':8} {'patched':>10} {'peer':>10} {'difference':>11}"]
    for row in rows:
        lines.append(f"{row['operation']:34} {row['mode']:8} {row['patched']:10.1f} {row['peer']:10.1f} "
                     f"{row['percent']:+10.2f}%")
    return "\n".join(lines)


def compare(ours, peer, mode):
    return [{"operation": name, "mode": mode, "patched": value, "peer": peer[name],
             "percent": 100 * (value - peer[name]) / peer[name]} for name, value in ours.items()]


def play(image, peer, disks, steps):
    """Measure both kernels in both modes of the host; returns the rows."""
    rows = []
    for mode in MODES:
        with steps.step(f"measuring the patched kernel ({mode})"):
            ours = measure(image, disks, "patched", mode)
        with steps.step(f"measuring the peer ({mode})"):
            rows += compare(ours, measure(peer, disks, "peer", mode), mode)
    return rows


def command(args, prepare, write_json):
    steps = Steps(9 if args.peer else 10)
    if args.peer:
        peer = ROOT / args.peer
        if not peer.is_file():
            raise Fail(f"--peer {args.peer}: no such Image (paths are relative to the repository)")
    image, disks = prepare(steps)
    if not args.peer:
        with steps.step("peer: the unpatched kernel") as step:
            peer = kernel.build("base-small", step)
    rows = play(image, peer, disks, steps)
    print(table(rows))
    write_json(args.json, rows)
