"""What a scenario does once all of its levels are up.

An act is called with the booted host, its guests (level -> options of guest/guest
that started it), and how many seconds its slowest step may take; it raises Fail.
"""

import random
import re
import time

from .ui import Fail

# Guests run beside the agent, which stays free to look at them. The host's console hears of one whose VMM fails.
START = """rm -f /tmp/{0}.status
(/nest/guest {0} {1} & echo $! >/tmp/{0}.pid; wait $!; status=$?
[ $status = 0 ] || echo "NEST-ENDED {0}.{2} status=$status: $(tail -n 1 /tmp/{0}.out)" >/dev/console
echo $status >/tmp/{0}.status) >/tmp/{0}.out 2>&1 </dev/null &"""
ENDED = "until [ -f /tmp/{0}.status ]; do sleep 0.1; done"
FINISH = ENDED + "; cat /tmp/{0}.out; exit $(cat /tmp/{0}.status)"
KILL = "kill -9 $(cat /tmp/{0}.pid) && " + ENDED

# What stays on a host without VMs: fields of /proc/meminfo, and by how many KiB they
# may grow (measured noise: a third of it).  Stage-2 tables (SecPageTables) are gone to
# the last page.  Used memory does not count free pages on the CPUs' own lists, which
# vary by 10 MiB.
STAYS = {"SecPageTables": 0, "PageTables": 128, "KernelStack": 128, "Percpu": 128, "SUnreclaim": 512, "Used": 1536}
# Nor what KASAN keeps of freed objects, which comes and goes with the slabs of the debug kernel.
IDLE = """shopt -s nullglob; for shrink in /sys/kernel/slab/*/shrink; do echo 1 >$shrink; done
sync; echo 3 >/proc/sys/vm/drop_caches; echo 1 >/proc/sys/vm/compact_memory; sleep 1; cat /proc/meminfo
awk '$1 == "count:" { free += $2 * 4 } END { print "OnLists: " free " kB" }' /proc/zoneinfo
ls /sys/kernel/debug/kvm | grep -c -- - || true"""

# What guest/job press tells to have done at least once: in the guest hypervisor, which
# may be slow, and on the host; there, also by QEMU's monitor.
PRESSURE = {"L1": ("page-out", "split", "swap-in", "swap-out")}
PRESSURE["L0"] = PRESSURE["L1"] + ("collapse", "move", "compact", "cool", "merge")
MONITOR = ("log-dirty", "balloon")


def start(host, level, options):
    """Start a guest of the host; options: of guest/guest."""
    host.starts[level] = host.starts.get(level, 0) + 1
    host.run(START.format(level, options, host.starts[level]))


def finish(host, guests, limit):
    """The guests do their jobs and power off."""
    for level in guests:
        status, output = host.run(FINISH.format(level), limit)
        if status:
            raise host.failed(level, f"its VMM ended with status {status}: {output[-300:]}")


def released(host, guests, limit):
    """L1, which waits for a line of input, gets it and powers off."""
    host.run("echo >/tmp/L1.in")
    finish(host, guests, limit)


def together(seconds):
    """All guests go on side by side for so long; none may end, which a job does that lost anything."""
    def act(host, guests, limit):
        time.sleep(seconds)
        for level in host.consoles:
            if host.job_status(level) is not None:
                raise host.failed(level, "its job ended beside the others")
        for level in guests:
            status, output = host.run(KILL.format(level))
            if status:
                raise host.failed(level, f"it ended beside the others: {output[-300:]}")
    return act


def check_pressure(level, ways, told):
    """Was every way to take memory taken, by what guest/job press told?"""
    done = dict(re.findall(r"^press: (\S+) (\d+)", told, re.M))
    missed = [way for way in ways if int(done.get(way, 0)) == 0]
    if missed:
        raise Fail(f"{level} put no pressure on its guest by {', '.join(missed)}: {done}")


def pressure(seconds, left):
    """The host takes the guest hypervisor's memory away and back, which does the same to its guest.

    left: MiB that the balloon leaves to the guest hypervisor, if its VMM has a monitor.
    """
    def act(host, guests, limit):
        monitor = "--monitor" in guests["L1"]
        status, output = host.run(f"/nest/job press $(cat /tmp/L1.pid) {seconds} {left if monitor else ''}", limit)
        if status:
            raise Fail(f"pressure on the host ended with status {status}: {output[-300:]}")
        finish(host, guests, limit)
        check_pressure("L0", PRESSURE["L0"] + (MONITOR if monitor else ()), output)
        check_pressure("L1", PRESSURE["L1"], "\n".join(host.consoles["L1"].lines))
    return act


def idle(host):
    """KiB in use on the host without VMs: field of /proc/meminfo -> value."""
    text = host.run(IDLE)[1]
    if not text.endswith("\n0"):
        raise Fail(f"a VM outlived its VMM: /sys/kernel/debug/kvm has {text.splitlines()[-1]}")
    fields = {name: int(value) for name, value in re.findall(r"^(\w+): +(\d+) kB", text, re.M)}
    return fields | {"Used": fields["MemTotal"] - fields["MemFree"] - fields["OnLists"]}


def compare(before, after, rounds):
    """KiB by which each field grew, or Fail when that is more than noise."""
    grown = {name: after[name] - before[name] for name in STAYS}
    if any(grown[name] > most for name, most in STAYS.items()):
        raise Fail(f"{rounds} killed guest hypervisors left memory in use, KiB: {grown}, allowed {STAYS}")
    return grown


def left_behind(host, before, rounds):
    """KiB by which each field grew; measured anew a few times, as some memory is freed late. What is lost stays lost."""
    for again in range(4, -1, -1):
        try:
            return compare(before, idle(host), rounds)
        except Fail:
            if not again:
                raise
            time.sleep(3)


def killed(rounds):
    """The guest hypervisor's VMM is killed and started anew, so many times; nothing may stay behind."""
    def act(host, guests, limit):
        host.run(KILL.format("L1"))
        before = idle(host)
        for _ in range(rounds):
            seen = {level: len(console.lines) for level, console in host.consoles.items()}
            start(host, "L1", guests["L1"])
            # Half of the time while the nested guest comes up.
            for level in ("L1", random.choice(("L1", "L2"))):
                host.report(level, limit, since=seen[level])
            time.sleep(random.uniform(0, 4))
            host.run(KILL.format("L1"))
        grown = left_behind(host, before, rounds)
        (host.folder / "grown").write_text(f"KiB more in use after {rounds} kills: {grown}\n")
    return act
