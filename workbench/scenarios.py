"""Boot scenarios: one line each.

A scenario boots the host and, in it, guests by guest/guest; it passes when each
level reports what the line expects and no kernel at any level is in trouble.
"""

import re
from collections import namedtuple

from .emulator import Machine, cpu_model
from .ui import Fail

# tier: quick, normal or long.  cpu/smp: of the emulated machine.  kernel: flavour.
# guest: options of guest/guest for level L1, or None.  expect: level -> report fields.
Scenario = namedtuple("Scenario", "name tier kernel cpu smp guest expect")

HYPERVISOR = {"el": "EL2", "mode": "VHE", "kvm": "yes"}
NVHE = HYPERVISOR | {"mode": "nVHE"}
PROTECTED = HYPERVISOR | {"mode": "pKVM"}
DOM0 = {"el": "EL1", "mode": "xen", "kvm": "no"}
ORDINARY = {"el": "EL1", "mode": "-", "kvm": "no"}

# How a guest hypervisor starts its own guest.
NESTED = "--el2 --root --mem 1024 --job '/nest/guest L2 --mem 256 --smp {}'"
# The same by nestvm at both levels; the guest hypervisor has VHE (--el2) or not (--e2h0).
NESTVM = "--vmm nestvm --root --mem 1024 --job '/nest/guest L2 --vmm nestvm --mem 256 --smp {}'"
# Debian's Xen with its kernel as dom0, which waits for a line of input, and as a second domain.
XEN = "--vmm nestvm --xen --mem 1024 --stock debian-6.12 --job 'read line'"
# The same with Debian's stock kernel, as guest hypervisor and as its guest.
DEBIAN = "--el2 --root --smp 2 --mem 1536 --stock {0} --job '/nest/guest L2 --mem 512 --stock {0}'"

TABLE = (
    Scenario("guest", "quick", "small", "max", 2, "--smp 1", {"L0": HYPERVISOR, "L1": ORDINARY | {"cpus": "1"}}),
    Scenario("guest-smp", "normal", "small", "max", 2, "--smp 4", {"L0": HYPERVISOR, "L1": ORDINARY | {"cpus": "4"}}),
    Scenario("guest-full", "normal", "small", "max", 2, "--smp 2 --root", {"L0": HYPERVISOR, "L1": ORDINARY}),
    Scenario("guest-neoverse", "normal", "small", "neoverse-v1", 2, "--smp 2", {"L0": HYPERVISOR, "L1": ORDINARY}),
    Scenario("vel2", "quick", "small", "max", 2, "--el2 --root", {"L0": HYPERVISOR, "L1": HYPERVISOR | {"cpus": "1"}}),
    Scenario("vel2-smp", "normal", "small", "max", 2, "--el2 --root --smp 4",
             {"L0": HYPERVISOR, "L1": HYPERVISOR | {"cpus": "4"}}),
    Scenario("vel2-neoverse", "normal", "small", "neoverse-v1", 2, "--el2 --root --smp 2",
             {"L0": HYPERVISOR, "L1": HYPERVISOR}),
    Scenario("vel2-debian", "normal", "small", "max", 2, "--el2 --root --smp 2 --mem 1024 --stock debian-6.12",
             {"L0": HYPERVISOR, "L1": HYPERVISOR}),
    Scenario("vel2-debian-newest", "normal", "small", "max", 2,
             "--el2 --root --smp 2 --mem 1024 --stock debian-newest", {"L0": HYPERVISOR, "L1": HYPERVISOR}),
    Scenario("vel2-debian-neoverse", "long", "small", "neoverse-v1", 2,
             "--el2 --root --smp 2 --mem 1024 --stock debian-6.12", {"L0": HYPERVISOR, "L1": HYPERVISOR}),
    Scenario("vel2-debian-newest-neoverse", "long", "small", "neoverse-v1", 2,
             "--el2 --root --smp 2 --mem 1024 --stock debian-newest", {"L0": HYPERVISOR, "L1": HYPERVISOR}),
    Scenario("vel2-debian-debug", "long", "debug", "max", 2, "--el2 --root --smp 2 --mem 1024 --stock debian-6.12",
             {"L0": HYPERVISOR, "L1": HYPERVISOR}),
    Scenario("vel2-debian-newest-debug", "long", "debug", "max", 2,
             "--el2 --root --smp 2 --mem 1024 --stock debian-newest", {"L0": HYPERVISOR, "L1": HYPERVISOR}),
    Scenario("nested", "normal", "small", "max", 2, NESTED.format(1) + " --smp 1",
             {"L0": HYPERVISOR, "L1": HYPERVISOR | {"cpus": "1"}, "L2": ORDINARY | {"cpus": "1"}}),
    Scenario("nested-smp", "normal", "small", "max", 2, NESTED.format(2) + " --smp 4",
             {"L0": HYPERVISOR, "L1": HYPERVISOR | {"cpus": "4"}, "L2": ORDINARY | {"cpus": "2"}}),
    Scenario("nested-neoverse", "normal", "small", "neoverse-v1", 2, NESTED.format(1) + " --smp 2",
             {"L0": HYPERVISOR, "L1": HYPERVISOR, "L2": ORDINARY}),
    Scenario("nested-debian", "normal", "small", "max", 2, DEBIAN.format("debian-6.12"),
             {"L0": HYPERVISOR, "L1": HYPERVISOR, "L2": ORDINARY}),
    Scenario("nested-debian-newest", "long", "small", "max", 2, DEBIAN.format("debian-newest"),
             {"L0": HYPERVISOR, "L1": HYPERVISOR, "L2": ORDINARY}),
    Scenario("nested-debian-16k", "long", "small", "max", 2, DEBIAN.format("debian-16k"),
             {"L0": HYPERVISOR, "L1": HYPERVISOR, "L2": ORDINARY}),
    Scenario("nestvm-guest", "quick", "small", "max", 2, "--vmm nestvm --smp 2", {"L0": HYPERVISOR, "L1": ORDINARY | {"cpus": "2"}}),
    Scenario("nestvm-vel2-smp", "normal", "small", "max", 2, "--vmm nestvm --el2 --root --smp 4",
             {"L0": HYPERVISOR, "L1": HYPERVISOR | {"cpus": "4"}}),
    Scenario("nestvm-nested", "normal", "small", "max", 2, NESTVM.format(2) + " --el2 --smp 2",
             {"L0": HYPERVISOR, "L1": HYPERVISOR | {"cpus": "2"}, "L2": ORDINARY | {"cpus": "2"}}),
    Scenario("nestvm-nested-smp", "long", "small", "neoverse-v1", 2, NESTVM.format(2) + " --el2 --smp 4",
             {"L0": HYPERVISOR, "L1": HYPERVISOR | {"cpus": "4"}, "L2": ORDINARY | {"cpus": "2"}}),
    Scenario("nested-nvhe", "normal", "small", "max", 2, NESTVM.format(1) + " --e2h0",
             {"L0": HYPERVISOR, "L1": NVHE | {"cpus": "1"}, "L2": ORDINARY | {"cpus": "1"}}),
    Scenario("nested-nvhe-smp", "long", "small", "max", 2, NESTVM.format(2) + " --e2h0 --smp 4",
             {"L0": HYPERVISOR, "L1": NVHE | {"cpus": "4"}, "L2": ORDINARY | {"cpus": "2"}}),
    Scenario("nested-nvhe-neoverse", "long", "small", "neoverse-v1", 2, NESTVM.format(2) + " --e2h0 --smp 4",
             {"L0": HYPERVISOR, "L1": NVHE | {"cpus": "4"}, "L2": ORDINARY | {"cpus": "2"}}),
    Scenario("nested-protected", "normal", "small", "max", 2,
             NESTVM.format(1) + " --e2h0 --append kvm-arm.mode=protected",
             {"L0": HYPERVISOR, "L1": PROTECTED | {"cpus": "1"}, "L2": ORDINARY | {"cpus": "1"}}),
    Scenario("nested-protected-smp", "long", "small", "max", 2,
             NESTVM.format(2) + " --e2h0 --smp 4 --append kvm-arm.mode=protected",
             {"L0": HYPERVISOR, "L1": PROTECTED | {"cpus": "4"}, "L2": ORDINARY | {"cpus": "2"}}),
    Scenario("xen", "long", "small", "max", 2, XEN, {"L0": HYPERVISOR, "L1": DOM0, "L2": ORDINARY}),
    Scenario("xen-smp", "long", "small", "max", 2, XEN + " --smp 4",
             {"L0": HYPERVISOR, "L1": DOM0 | {"cpus": "4"}, "L2": ORDINARY}),
    Scenario("xen-neoverse", "long", "small", "neoverse-v1", 2, XEN + " --smp 4",
             {"L0": HYPERVISOR, "L1": DOM0 | {"cpus": "4"}, "L2": ORDINARY}),
    Scenario("nested-debug", "long", "debug", "max", 2, NESTED.format(1) + " --smp 2",
             {"L0": HYPERVISOR, "L1": HYPERVISOR, "L2": ORDINARY}),
    Scenario("nested-neoverse-debug", "long", "debug", "neoverse-v1", 2, NESTED.format(1) + " --smp 2",
             {"L0": HYPERVISOR, "L1": HYPERVISOR, "L2": ORDINARY}),
    Scenario("vel2-smp-debug", "long", "debug", "max", 2, "--el2 --root --smp 4 --mem 1024",
             {"L0": HYPERVISOR, "L1": HYPERVISOR | {"cpus": "4"}}),
    Scenario("guest-debug", "long", "debug", "max", 2, "--smp 2", {"L0": HYPERVISOR, "L1": ORDINARY}),
)

# Seconds: the debug kernel is some ten times slower; Xen starts two of Debian's kernels at a time.
BOOT = {"small": 120, "debug": 900}
XEN_BOOT = 600


def named(name):
    """The scenario of a name, or Fail."""
    found = [scenario for scenario in TABLE if scenario.name == name]
    if not found:
        raise Fail(f"no scenario '{name}': there are {', '.join(scenario.name for scenario in TABLE)}")
    return found[0]


def stock_of(scenario):
    """Names of the stock kernels that a scenario's guests run."""
    return sorted(set(re.findall(r"--stock (\S+?)(?=['\s]|$)", scenario.guest)))


def has_xen(scenario):
    return "--xen" in scenario.guest


def machine(scenario, kernel, disks, **options):
    return Machine(kernel, disks, f"scenario-{scenario.name}", cpu=cpu_model(scenario.cpu), smp=scenario.smp,
                   memory=3072, **options)


# Guests run beside the agent, which stays free to look at them.
START = "(/nest/guest L1 {}; echo $? >/tmp/L1.status) >/tmp/L1.out 2>&1 </dev/null &"
FINISH = "until [ -f /tmp/L1.status ]; do sleep 0.1; done; cat /tmp/L1.out; exit $(cat /tmp/L1.status)"


def play(scenario, kernel, disks, on_level=lambda level: None, inspect=lambda host: None):
    """Run a scenario; returns the reports by level, raises Fail.

    on_level: called with each level's name before it is waited for.
    inspect: called with the host once all levels are up.
    """
    limit = XEN_BOOT if has_xen(scenario) else BOOT[scenario.kernel]
    with machine(scenario, kernel, disks) as host:
        on_level("L0")
        reports = {"L0": host.boot(limit)}
        host.run(START.format(scenario.guest))
        for level in list(scenario.expect)[1:]:
            on_level(level)
            # What Xen's second domain writes is on Xen's console.
            reports[level] = host.report(level, limit, "L1" if has_xen(scenario) else level)
        inspect(host)
        if has_xen(scenario):
            host.run("echo >/tmp/L1.in")
        status, output = host.run(FINISH, limit)
        if status:
            raise host.failed("L1", f"its VMM ended with status {status}: {output[-300:]}")
        host.power_off()
    return reports


def unexpected(scenario, reports):
    """Differences between what the levels reported and what was expected."""
    return [f"{level}: {key} is {reports[level].get(key)}, not {value}"
            for level, fields in scenario.expect.items() for key, value in fields.items()
            if reports[level].get(key) != value]
