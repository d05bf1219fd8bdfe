"""Boot scenarios: one line each.

A scenario boots the host and, in it, guests by guest/guest; it passes when each
level reports what the line expects and no kernel at any level is in trouble.
"""

from collections import namedtuple

from . import acts, stock, vmm
from .emulator import PATIENCE, Machine, cpu_model
from .ui import Fail

# tier: quick, normal or long.  kernel: the host's flavour.  cpu/smp: of the emulated machine.
# guest: options of guest/guest for level L1.  expect: level -> report fields, and
# as "job" the status of the job that a level was given.  act: what is done with the
# levels once they are up (acts.py), which takes about so many seconds.  beside:
# further guests of the host, L1b, L1c...: level -> options.  clock: of the emulated
# machine, if not its kernel's (CLOCK).
Scenario = namedtuple("Scenario", "name tier kernel cpu smp guest expect act seconds beside clock",
                      defaults=(acts.finish, 0, {}, None))

HYPERVISOR = {"el": "EL2", "mode": "VHE", "kvm": "yes"}
NVHE = HYPERVISOR | {"mode": "nVHE"}
PROTECTED = HYPERVISOR | {"mode": "pKVM"}
DOM0 = {"el": "EL1", "mode": "xen", "kvm": "no"}
ORDINARY = {"el": "EL1", "mode": "-", "kvm": "no"}

# How a guest hypervisor starts its own guest.
NESTED = "--el2 --root --mem 1024 --job '/nest/guest L2 --mem 256 --smp {}'"
# The same by nestvm at both levels; the guest hypervisor has VHE (--el2) or not (--e2h0).
NESTVM = "--vmm nestvm --root --mem 1024 --job '/nest/guest L2 --vmm nestvm --mem 256 --smp {}'"
# The same in protected mode, where Linux 6.12 shows its VMs more than it lets them use: the keys of pointer
# authentication, the memory copies of FEAT_MOPS, FPMR.
PROTECTED_MODE = (NESTVM.replace("{}'", "{} --append arm64.nopauth --append arm64.nomops -- --no-fpmr'") +
                  " --e2h0 --append kvm-arm.mode=protected")
# Debian's Xen with its kernel as dom0, which waits for a line of input, and as a second domain. Both tick 250 times a
# second, and a tick costs the host 30 exits: too much for the emulator in real time, thus a nanosecond an instruction.
XEN_CLOCK = "shift=0,sleep=off"
XEN = "--vmm nestvm --xen --mem 1024 --stock debian-6.12 --job 'read line'"
# Sizes: end of the scenario's name, the machine's CPU, vCPUs of the guest hypervisor and of its guest.
SIZES = (("", "max", 1, 1), ("-smp", "max", 4, 2), ("-neoverse", "neoverse-v1", 1, 1), ("-neoverse-smp", "neoverse-v1", 4, 2))
# A guest hypervisor that keeps its guest, and that guest's memory, busy; an ordinary guest.
BUSY = "--root --mem 768 --smp {0} --job '/nest/job busy 3600 64 --vmm nestvm --mem 192 --smp {0}'"
BUSY_ORDINARY = "--mem 256 --smp {0} --job '/nest/bin/load 3600 memory 64'"
# Another kernel (stock.py), as guest hypervisor and as its guest.
OTHER = "--el2 --root --smp 2 --mem 1536 --stock {0} --job '/nest/guest L2 --mem 512 --stock {0}'"

# Ways in which a guest hypervisor runs KVM: end of the scenarios' names -> what it reports, the machine's CPU, options
# of guest/guest for it, for its guests and for three of them, and which scenarios are of the normal tier.  Without VHE,
# its VMM is nestvm, with which the host has no balloon and no dirty logging; of its guests, only the three's is.
Mode = namedtuple("Mode", "report cpu guest nested three normal")
MODES = {
    "": Mode(HYPERVISOR, "max", "--el2 --monitor", "", "", ("kill", "pressure", "three", "load")),
    "-nvhe": Mode(NVHE, "max", "--vmm nestvm --e2h0", "", " --vmm nestvm", ()),
    "-protected": Mode(PROTECTED, "neoverse-v1", "--vmm nestvm --e2h0 --append kvm-arm.mode=protected",
                       " --append arm64.nopauth", " --vmm nestvm --append arm64.nopauth", ()),
}


def stress(end, mode):
    """The scenarios that a guest hypervisor of each mode has to stand."""
    levels, nested = {"L0": HYPERVISOR, "L1": mode.report, "L2": ORDINARY}, mode.nested
    done = {level: fields | ({} if level == "L0" else {"job": "0"}) for level, fields in levels.items()}

    def line(name, job, expect=done, act=acts.finish, seconds=0, smp=2, mem=1024):
        return Scenario(name + end, "normal" if name in mode.normal else "long", "small", mode.cpu, 2,
                        f"{mode.guest} --root --smp {smp} --mem {mem} --job '/nest/job {job}'",
                        expect, act, seconds)

    return (
        line("kill", f"loaded 600 64 --mem 192{nested}", levels, acts.killed(2), seconds=30),
        line("kill-100", f"loaded 600 64 --mem 192 --smp 2{nested}", levels, acts.killed(100), seconds=30),
        line("pressure", f"pressed 140 20 96 --mem 160{nested}", act=acts.pressure(15, 600), seconds=100, mem=768),
        line("pressure-long", f"pressed 350 600 256 --mem 400 --smp 2{nested}", act=acts.pressure(600, 800), seconds=600,
             smp=4),
        line("three", f"three 2{mode.three}", levels | {"L1": done["L1"]}, seconds=40, mem=1280),
        line("three-20", f"three 20{mode.three}", levels | {"L1": done["L1"]}, seconds=400, mem=1280),
        line("load", f"loaded 10 64 --smp 2{nested}", seconds=60, smp=4),
        *(line(f"load-{smp}x{inner}", f"loaded 600 128 --smp {inner}{nested}", seconds=600, smp=smp)
          for smp, inner in ((1, 1), (1, 2), (4, 1), (4, 2))),
    )


TABLE = (
    Scenario("guest", "quick", "small", "max", 2, "--smp 1", {"L0": HYPERVISOR, "L1": ORDINARY | {"cpus": "1"}}),
    Scenario("guest-smp", "normal", "small", "max", 2, "--smp 4", {"L0": HYPERVISOR, "L1": ORDINARY | {"cpus": "4"}}),
    Scenario("guest-full", "normal", "small", "max", 2, "--smp 2 --root", {"L0": HYPERVISOR, "L1": ORDINARY}),
    Scenario("guest-neoverse", "normal", "small", "neoverse-v1", 2, "--smp 2", {"L0": HYPERVISOR, "L1": ORDINARY}),
    Scenario("vel2", "quick", "small", "max", 2, "--el2 --root", {"L0": HYPERVISOR, "L1": HYPERVISOR | {"cpus": "1"}}),
    Scenario("vel2-smp", "normal", "small", "max", 2, "--el2 --root --smp 4",
             {"L0": HYPERVISOR, "L1": HYPERVISOR | {"cpus": "4"}}),
    Scenario("vel2-neoverse", "normal", "small", "neoverse-v1", 2, "--el2 --root --smp 4",
             {"L0": HYPERVISOR, "L1": HYPERVISOR | {"cpus": "4"}}),
    Scenario("vel2-debian", "normal", "small", "max", 2, "--el2 --root --smp 2 --mem 1024 --stock debian-6.12",
             {"L0": HYPERVISOR, "L1": HYPERVISOR}),
    Scenario("vel2-debian-newest", "normal", "small", "max", 2,
             "--el2 --root --smp 2 --mem 1024 --stock debian-newest", {"L0": HYPERVISOR, "L1": HYPERVISOR}),
    Scenario("vel2-debian-neoverse", "long", "small", "neoverse-v1", 2,
             "--el2 --root --smp 2 --mem 1024 --stock debian-6.12", {"L0": HYPERVISOR, "L1": HYPERVISOR}),
    Scenario("vel2-debian-newest-neoverse", "long", "small", "neoverse-v1", 2,
             "--el2 --root --smp 2 --mem 1024 --stock debian-newest", {"L0": HYPERVISOR, "L1": HYPERVISOR}),
    Scenario("nested", "normal", "small", "max", 2, NESTED.format(1) + " --smp 1",
             {"L0": HYPERVISOR, "L1": HYPERVISOR | {"cpus": "1"}, "L2": ORDINARY | {"cpus": "1"}}),
    Scenario("nested-smp", "normal", "small", "max", 2, NESTED.format(2) + " --smp 4",
             {"L0": HYPERVISOR, "L1": HYPERVISOR | {"cpus": "4"}, "L2": ORDINARY | {"cpus": "2"}}),
    Scenario("nested-neoverse", "normal", "small", "neoverse-v1", 2, NESTED.format(1),
             {"L0": HYPERVISOR, "L1": HYPERVISOR | {"cpus": "1"}, "L2": ORDINARY}),
    Scenario("nested-uefi", "normal", "small", "max", 2, NESTED.format(1) + " --smp 2 --uefi",
             {"L0": HYPERVISOR | {"boot": "direct"}, "L1": HYPERVISOR | {"boot": "UEFI"}, "L2": ORDINARY | {"boot": "direct"}}),
    Scenario("nested-uefi-all", "long", "small", "max", 2,
             "--el2 --root --smp 2 --mem 1024 --uefi --job '/nest/guest L2 --mem 256 --uefi'",
             {"L0": HYPERVISOR, "L1": HYPERVISOR | {"boot": "UEFI"}, "L2": ORDINARY | {"boot": "UEFI"}}, seconds=60),
    Scenario("nested-debian", "normal", "small", "max", 2, OTHER.format("debian-6.12"),
             {"L0": HYPERVISOR, "L1": HYPERVISOR, "L2": ORDINARY}),
    Scenario("nested-debian-newest", "long", "small", "max", 2, OTHER.format("debian-newest"),
             {"L0": HYPERVISOR, "L1": HYPERVISOR, "L2": ORDINARY}),
    Scenario("nestvm-guest", "quick", "small", "max", 2, "--vmm nestvm --smp 2",
             {"L0": HYPERVISOR, "L1": ORDINARY | {"cpus": "2"}}),
    Scenario("nestvm-vel2-smp", "normal", "small", "max", 2, "--vmm nestvm --el2 --root --smp 4",
             {"L0": HYPERVISOR, "L1": HYPERVISOR | {"cpus": "4"}}),
    Scenario("nestvm-nested", "normal", "small", "max", 2, NESTVM.format(2) + " --el2 --smp 2",
             {"L0": HYPERVISOR, "L1": HYPERVISOR | {"cpus": "2"}, "L2": ORDINARY | {"cpus": "2"}}),
    Scenario("nestvm-nested-neoverse-smp", "long", "small", "neoverse-v1", 2, NESTVM.format(2) + " --el2 --smp 4",
             {"L0": HYPERVISOR, "L1": HYPERVISOR | {"cpus": "4"}, "L2": ORDINARY | {"cpus": "2"}}),
    *(Scenario(f"nested-{mode}{end}", "long" if end else "normal", "small", cpu, 2, f"{options.format(inner)} --smp {smp}",
               {"L0": HYPERVISOR, "L1": report | {"cpus": str(smp)}, "L2": ORDINARY | {"cpus": str(inner)}})
      for mode, options, report in (("nvhe", NESTVM + " --e2h0", NVHE), ("protected", PROTECTED_MODE, PROTECTED))
      for end, cpu, smp, inner in SIZES),
    *(Scenario(f"xen{end}", "long", "small", cpu, 2, f"{XEN} --smp {smp}",
               {"L0": HYPERVISOR, "L1": DOM0 | {"cpus": str(smp)}, "L2": ORDINARY}, acts.released, clock=XEN_CLOCK)
      for end, cpu, smp, _ in SIZES),
    Scenario("uboot", "normal", "small", "max", 2, NESTVM.format(1) + " --e2h0 --uboot",
             {"L0": HYPERVISOR, "L1": NVHE | {"boot": "U-Boot"}, "L2": ORDINARY | {"boot": "direct"}}),
    Scenario("uboot-all", "long", "small", "neoverse-v1", 2, NESTVM.format("2 --uboot") + " --e2h0 --smp 4 --uboot",
             {"L0": HYPERVISOR, "L1": NVHE | {"boot": "U-Boot", "cpus": "4"},
              "L2": ORDINARY | {"boot": "U-Boot", "cpus": "2"}}),
    Scenario("uboot-vhe", "long", "small", "max", 2, NESTED.format(1) + " --smp 2 --uboot",
             {"L0": HYPERVISOR, "L1": HYPERVISOR | {"boot": "U-Boot"}, "L2": ORDINARY | {"boot": "direct"}}),
    *(Scenario(f"side-by-side{end}", tier, "small", cpu, 2, "--el2 " + BUSY.format(smp),
               {"L0": HYPERVISOR, "L1": HYPERVISOR, "L2": ORDINARY, "L1b": NVHE, "L2b": ORDINARY, "L1c": ORDINARY},
               acts.together(8), 30,
               {"L1b": "--vmm nestvm --e2h0 " + BUSY.format(smp), "L1c": BUSY_ORDINARY.format(smp)})
      for end, tier, cpu, smp in (("", "normal", "max", 1), ("-smp", "long", "neoverse-v1", 2))),
    Scenario("nested-debian-16k", "long", "small", "max", 2, OTHER.format("debian-16k"),
             {"L0": HYPERVISOR, "L1": HYPERVISOR, "L2": ORDINARY}, seconds=60),
    Scenario("nested-64k", "long", "small", "max", 2, OTHER.format("ours-64k"),
             {"L0": HYPERVISOR, "L1": HYPERVISOR, "L2": ORDINARY}, seconds=60),
) + tuple(line for end, mode in MODES.items() for line in stress(end, mode))

# Every one of them on a host whose kernel looks for its own mistakes, too.
TABLE += tuple(line._replace(name=f"{line.name}-debug", tier="long", kernel="debug") for line in TABLE)

# Seconds that a level may take to come up.
BOOT = {"small": PATIENCE, "debug": 3 * PATIENCE}

# The emulated machine's clock: the emulator's, or four nanoseconds an instruction. By the emulator's, the debug kernel
# spends all of its time in the ticks of a guest hypervisor; by a slower one, what lasts ten minutes takes hours.
CLOCK = {"small": None, "debug": "shift=2,sleep=off"}


def named(name):
    """The scenario of a name, or Fail."""
    found = [scenario for scenario in TABLE if scenario.name == name]
    if not found:
        raise Fail(f"no scenario '{name}': there are {', '.join(scenario.name for scenario in TABLE)}")
    return found[0]


def guests_of(scenario):
    """The host's guests: level -> options of guest/guest."""
    return {"L1": scenario.guest} | scenario.beside


def folders(scenario, step):
    """What a scenario's guests need on top of our own programs: (folder, name in the payload)."""
    options = " ".join(guests_of(scenario).values())
    return vmm.others(options) + stock.wanted(options, step)


# Two nodes, so that memory has where to move to.
NODES = [option for node in ("near", "far") for option in
         ("-object", f"memory-backend-ram,id={node},size=1536M", "-numa", f"node,memdev={node}")]


def machine(scenario, kernel, disks):
    return Machine(kernel, disks, f"scenario-{scenario.name}", cpu=cpu_model(scenario.cpu), smp=scenario.smp,
                   memory=3072, icount=scenario.clock or CLOCK[scenario.kernel], options=NODES,
                   levels=tuple(scenario.expect))


def play(scenario, kernel, disks, on_level=lambda level: None, inspect=lambda host: None):
    """Run a scenario; returns the reports by level, raises Fail.

    on_level: called with each level's name before it is waited for.
    inspect: called with the host once all levels are up.
    """
    limit = BOOT[scenario.kernel] + 5 * scenario.seconds
    with machine(scenario, kernel, disks) as host:
        on_level("L0")
        reports = {"L0": host.boot(limit)}
        for level, options in guests_of(scenario).items():
            acts.start(host, level, options)
        for level in list(scenario.expect)[1:]:
            on_level(level)
            # What Xen's second domain writes is on Xen's console.
            reports[level] = host.report(level, limit, "L1" if "--xen" in scenario.guest else level)
        inspect(host)
        scenario.act(host, guests_of(scenario), limit)
        host.power_off()
    for level, report in reports.items():
        report["job"] = host.job_status(level)
    return reports


def unexpected(scenario, reports):
    """Differences between what the levels reported and what was expected."""
    return [f"{level}: {key} is {reports[level].get(key)}, not {value}"
            for level, fields in scenario.expect.items() for key, value in fields.items()
            if reports[level].get(key) != value]
