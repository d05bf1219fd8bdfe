"""./nest bench: what exits cost, in instructions, beside a peer kernel.

Figures are exact instruction counts: one emulated CPU, -icount shift=0, a 1 GHz
counter, so that a tick of the guest's counter is one instruction.
"""

import re

from . import kernel, stock
from .emulator import Machine, cpu_model
from .paths import ROOT
from .ui import Fail, Steps

ICOUNT = "shift=0,sleep=off"


# The host's two ways to boot: only the second one can have guests with EL2.
MODES = {"default": "", "nested": "kvm-arm.mode=nested"}
OPERATIONS = ("hypercall", "mmio-kernel", "mmio-user")
ORDINARY, NESTED = "ordinary guest", "nested guest"

# Exits of the only VM in 0.05 s, which is 50 million instructions.
WINDOW = 50_000_000
COUNT_EXITS = "cd /sys/kernel/debug/kvm/*-*; a=$(cat exits); sleep 0.05; echo $(($(cat exits) - a))"


def options(command):
    command.add_argument("--peer")
    command.add_argument("--nested", action="store_true")
    command.add_argument("--json")


def machine(host, disks, name, mode):
    """host: (Image, initramfs or None)."""
    image, initrd = host
    return Machine(image, disks, f"bench-{name}", cpu=cpu_model("max", pmu="off"), smp=1, memory=2048, icount=ICOUNT,
                   append="quiet", nested=MODES[mode], options=["-initrd", str(initrd)] if initrd else [])


def ordinary(host, disks, name, mode):
    """What exits of an ordinary guest cost: operation -> (instructions, None: one exit each)."""
    with machine(host, disks, name, mode) as booted:
        booted.boot(300)
        status, output = booted.run("/nest/bin/exitcost", 300)
        if status:
            raise Fail(f"exitcost failed on the {name} kernel: {output[-300:]}")
        booted.power_off()
    return {operation: (float(ticks), None) for operation, ticks in re.findall(r"^(\S+) ([0-9.]+)$", output, re.M)}


def nested(host, disks, name):
    """What exits of a nested guest cost, under a Linux guest hypervisor: operation -> (instructions, host exits)."""
    found = {}
    loops = "; ".join(f"echo loop {operation}; timeout 0.4 /nest/bin/exitcost {operation}" for operation in OPERATIONS)
    with machine(host, disks, name, "nested") as booted:
        booted.boot(300)
        booted.run(f"/nest/guest L1 --el2 --root --mem 768 --job '/nest/bin/exitcost; {loops}' >/tmp/guest 2>&1 &")
        booted.report("L1", 600)
        for operation in OPERATIONS:
            found[operation] = float(booted.wait("L1", rf"^{operation} ([0-9.]+)$", 300)[1])
        for operation in OPERATIONS:
            booted.wait("L1", f"^loop {operation}$", 300)
            status, output = booted.run(f"sleep 0.05; {COUNT_EXITS}", 300)
            if status:
                raise Fail(f"counting exits on the {name} kernel failed: {output[-300:]}")
            found[operation] = found[operation], int(output) * found[operation] / WINDOW
    return found


def table(rows):
    """Text of the result rows."""
    lines = [f"{'instructions for':16} {'in':15} {'host':8} {'patched':>10} {'peer':>10} {'difference':>11}  exits on the host"]
    for row in rows:
        peer = f"{row['peer']:10.1f} {row['percent']:+10.2f}%" if row["peer"] else f"{'-':>10} {'-':>11}"
        exits = " (peer ".join(f"{n:.1f}" for n in (row["exits"], row["peer exits"]) if n) + (")" if row["peer exits"] else "")
        lines.append(f"{row['operation']:16} {row['guest']:15} {row['mode']:8} {row['patched']:10.1f} {peer}  {exits}")
    return "\n".join(lines)


def compare(ours, peer, guest, mode):
    """Result rows; peer: {} where it has nothing to compare."""
    rows = []
    for operation, (value, exits) in ours.items():
        other, other_exits = peer.get(operation, (None, None))
        rows.append({"operation": operation, "guest": guest, "mode": mode, "patched": value, "peer": other,
                     "percent": 100 * (value - other) / other if other else None,
                     "exits": exits, "peer exits": other_exits})
    return rows


def play_ordinary(host, peer, disks, steps):
    """Ordinary guests on both kernels in both modes of the host; returns the rows."""
    rows = []
    for mode in MODES:
        with steps.step(f"measuring ordinary guests on the patched kernel ({mode})"):
            ours = ordinary(host, disks, "patched", mode)
        with steps.step(f"measuring ordinary guests on the peer ({mode})"):
            rows += compare(ours, ordinary(peer, disks, "peer", mode), ORDINARY, mode)
    return rows


def play_nested(host, peer, disks, steps):
    """Nested guests on the patched kernel and, if it is not None, on a peer that has nesting."""
    with steps.step("measuring nested guests on the patched kernel"):
        ours = nested(host, disks, "patched")
    with steps.step("measuring nested guests on the peer"):
        theirs = nested(peer, disks, "peer") if peer else {}
    return compare(ours, theirs, NESTED, "nested")


def peer_of(name, step):
    """(Image, initramfs or None) of the peer that --peer names."""
    if not name:
        return kernel.build("base-small", step), None
    if name in stock.KERNELS:
        folder = stock.make(name, step)
        return folder / "Image", folder / "initramfs.gz"
    if not (ROOT / name).is_file():
        raise Fail(f"--peer {name}: neither an Image (paths are relative to the repository) nor one of "
                   f"{', '.join(stock.KERNELS)}")
    return ROOT / name, None


def command(args, prepare, write_json):
    steps = Steps(8 if args.nested else 10)
    image, disks = prepare(steps)
    with steps.step(f"peer: {args.peer or 'the unpatched kernel'}") as step:
        peer = peer_of(args.peer, step)
    if args.nested:
        rows = play_nested((image, None), peer if args.peer else None, disks, steps)
    else:
        rows = play_ordinary((image, None), peer, disks, steps)
    print(table(rows))
    write_json(args.json, rows)
