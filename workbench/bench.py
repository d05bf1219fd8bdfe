"""./nest bench: what exits cost, in instructions, beside a peer kernel.

Figures are exact instruction counts: one emulated CPU, -icount shift=0, a 1 GHz
counter, so that a tick of the guest's counter is one instruction.
"""

import re
from collections import namedtuple

from . import acts, chart, kernel, stock
from .emulator import WARNINGS, Machine, cpu_model
from .paths import ROOT
from .ui import Fail, Steps, shown

ICOUNT = "shift=0,sleep=off"

# The host's two ways to boot: only the second one can have guests with EL2.
MODES = {"default": "", "nested": "kvm-arm.mode=nested"}
ORDINARY, NESTED, HYPERVISOR = "ordinary guest", "nested guest", "hypervisor"
NESTED_NVHE, HYPERVISOR_NVHE = "guest of nVHE", "nVHE hypervisor"

# Guest hypervisors: what they and their guests are called, how guest/guest starts a Linux one (None: it is left out),
# option of guest/nvcost.c.
Hypervisor = namedtuple("Hypervisor", "name guest linux option")
VHE = Hypervisor(HYPERVISOR, NESTED, "--el2", "")
NVHE = Hypervisor(HYPERVISOR_NVHE, NESTED_NVHE, "--vmm nestvm --e2h0", "--e2h0")
HYPERVISORS = VHE, NVHE
# Under nVHE, "switch" does not end within minutes where Linux 7.3 is the host.
OF_PEER = VHE, NVHE._replace(linux=None)

# What guest/exitcost.c measures; what guest/bench adds; what guest/nvcost.c measures.
OPERATIONS = ("hypercall", "mmio-kernel", "mmio-user", "switch", "fault", "eoi", "ipi", "wfi-timer")
BOOT = ("boot",)
HYPERVISOR_OPERATIONS = ("el2-round", "el2-switch", "el2-fault", "tlbi-vmid", "tlbi-ipa")
# Repeated for the count of exits; an iteration of "eoi" is more than what it measures.
COUNTED = tuple(name for name in OPERATIONS if name != "eoi")
# Operations in an iteration, where it is not one.
PARTS = {"switch": 2, "ipi": 2}

NO_POLLING = "echo 0 >/sys/module/kvm/parameters/halt_poll_ns"
# Exits of the only VM, and the microseconds (thousands of instructions) in which they came. No process is started in
# between. Before, the guest hypervisor sets up its guest's VM and ends the one before: on Linux 7.3, a TLBI takes 0.1 s.
COUNT_EXITS = """set -e; sleep {}; cd /sys/kernel/debug/kvm/*-*; [ -p /tmp/never ] || mkfifo /tmp/never; exec 9<>/tmp/never
read a <exits; start=${{EPOCHREALTIME/./}}; read -t 0.03 -u 9 || true; read b <exits
echo $((b - a)) $((${{EPOCHREALTIME/./}} - start))"""


def options(command, result_file):
    command.add_argument("--peer")
    command.add_argument("--nested", action="store_true")
    command.add_argument("--json", type=result_file)
    command.add_argument("--svg", type=result_file, default="build/bench.svg")


def machine(host, disks, name, mode):
    """host: (Image, initramfs or None)."""
    image, initrd = host
    return Machine(image, disks, f"bench-{name}", cpu=cpu_model("max", pmu="off"), smp=1, memory=2048, icount=ICOUNT,
                   append=f"{WARNINGS} nokaslr", nested=MODES[mode], options=["-initrd", str(initrd)] if initrd else [])


def measured(booted, command, operations):
    """Run a command of guest/ on the host: operation -> (instructions, None)."""
    status, output = booted.run(f"{NO_POLLING}; {command}", 600)
    found = {name: (float(ticks), None) for name, ticks in re.findall(r"^(\S+) ([0-9.]+) [0-9.]+$", output, re.M)}
    if status or set(found) != set(operations):
        raise Fail(f"'{command}' failed on the host: {output[-300:]}")
    return found


def ordinary(host, disks, name, mode):
    """What exits of an ordinary guest cost: operation -> (instructions, None: not counted)."""
    with machine(host, disks, name, mode) as booted:
        booted.boot(300)
        found = measured(booted, "/nest/bin/exitcost", OPERATIONS)
        booted.power_off()
    return found


def under_hypervisor(booted, linux, seconds):
    """What exits of a nested guest cost, under a Linux guest hypervisor: operation -> (instructions, host exits).

    linux: options that start it.  seconds: how long each operation goes on for the count of exits, which starts after
    a quarter of it.
    """
    found, iteration = {}, {}
    acts.start(booted, "L1", f"{linux} --root --mem 768 --append nokaslr --job "
                             f"'/nest/bench {seconds} {' '.join(COUNTED)}'")
    booted.report("L1", 600)
    for name in OPERATIONS:
        line = booted.wait("L1", rf"^{name} ([0-9.]+) ([0-9.]+)$", 300)
        found[name], iteration[name] = (float(line[1]), None), float(line[2])
    for name in COUNTED:
        booted.wait("L1", f"^loop {name}$", 300)
        status, output = booted.run(COUNT_EXITS.format(seconds / 4), 300)
        if status:
            raise Fail(f"counting exits of '{name}' on the host failed: {output[-300:]}")
        exits, microseconds = map(int, output.split())
        if exits:   # else it was not going on
            found[name] = found[name][0], exits * iteration[name] / PARTS.get(name, 1) / (1000 * microseconds)
    found["boot"] = float(booted.wait("L1", r"^boot ([0-9]+) ", 300)[1]), None
    return found


def nested(host, disks, name, seconds, hypervisors):
    """What all guests of a host with nesting cost: guest -> operation -> (instructions, host exits)."""
    found = {}
    for hypervisor in hypervisors:
        with machine(host, disks, f"{name}{hypervisor.option}", "nested") as booted:
            booted.boot(300)
            if not found:
                found[ORDINARY] = measured(booted, "/nest/bench 0", OPERATIONS + BOOT)
            found[hypervisor.name] = measured(booted, f"/nest/bin/nvcost {hypervisor.option}", HYPERVISOR_OPERATIONS)
            if hypervisor.linux:
                found[hypervisor.guest] = under_hypervisor(booted, hypervisor.linux, seconds)
            booted.check_splats()
    return found


def table(rows):
    """Text of the result rows."""
    lines = [f"{'instructions for':16} {'in':15} {'host':8} {'patched':>15} {'peer':>15} {'difference':>11}  exits on the host"]
    for row in rows:
        peer = f"{row['peer']:15,.1f} {row['percent']:+10.2f}%" if row["peer"] else f"{'-':>15} {'-':>11}"
        exits = " (peer ".join(f"{n:.1f}" for n in (row["exits"], row["peer exits"]) if n) + (")" if row["peer exits"] else "")
        lines.append(f"{row['operation']:16} {row['guest']:15} {row['mode']:8} {row['patched']:15,.1f} {peer}  {exits}".rstrip())
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


def play_nested(host, peer, disks, steps, hypervisors=HYPERVISORS):
    """All guests on the patched kernel and, if it is not None, on a peer that has nesting; rows by operation."""
    with steps.step("measuring nested guests on the patched kernel"):
        ours = nested(host, disks, "patched", 0.3, hypervisors)
    with steps.step("measuring nested guests on the peer"):
        theirs = nested(peer, disks, "peer", 2, OF_PEER) if peer else {}
    rows = [row for guest in ours for row in compare(ours[guest], theirs.get(guest, {}), guest, "nested")]
    order = OPERATIONS + BOOT + HYPERVISOR_OPERATIONS
    return sorted(rows, key=lambda row: order.index(row["operation"]))


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
    with steps.step(f"peer: {args.peer or ('none' if args.nested else 'the unpatched kernel')}") as step:
        peer = peer_of(args.peer, step) if args.peer or not args.nested else None
    if args.nested:
        rows = play_nested((image, None), peer, disks, steps)
    else:
        rows = play_ordinary((image, None), peer, disks, steps)
    print(table(rows))
    args.svg.write_text(chart.bars(rows))
    print(f"chart: {shown(args.svg)}")
    write_json(args.json, rows)
