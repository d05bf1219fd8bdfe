"""The boot harness: time-outs, splats, commands, clean endings."""

import os
import signal
import subprocess
import sys
import time

import pytest

from workbench.emulator import SPLAT, WARNINGS, Console, Machine, leftovers
from workbench.ui import Fail


def booted(image, disks, name):
    return Machine(image, disks, name, smp=1, append=WARNINGS)


@pytest.mark.normal
def test_commands_and_timeouts(image, disks):
    with booted(image, disks, "harness") as machine:
        machine.boot()
        assert machine.run("echo one; echo two; exit 3") == (3, "one\ntwo")
        status, output = machine.run("printf 'no newline'")
        assert (status, output) == (0, "no newline")
        with pytest.raises(Fail, match=r"L1: no 'never' within 1 s; log build/log/harness/L1.log"):
            machine.wait("L1", "never", 1)
        with pytest.raises(Fail, match=r"'while sleep 0.2; do echo busy; done' took too long"):
            machine.run("while sleep 0.2; do echo busy; done", timeout=1)
    assert leftovers() == []


SPLAT_COMMAND = "echo '<4>WARNING: made up by a test' >/dev/kmsg; sleep 60"


@pytest.mark.normal
@pytest.mark.parametrize("level, command", [("L0", SPLAT_COMMAND), ("L1", f'/nest/guest L1 --job "{SPLAT_COMMAND}"')])
def test_splat_fails_and_is_shown(level, command, image, disks):
    """A warning, of the kernel's level for them, on the consoles as all tests and scenarios have them."""
    with booted(image, disks, "splat") as machine:
        machine.boot()
        with pytest.raises(Fail, match=rf"(?s){level}'s kernel is in trouble.*made up by a test"):
            machine.run(command)
    assert leftovers() == []


@pytest.mark.quick
@pytest.mark.parametrize("line", [
    "[    1.0] WARNING: CPU: 0 PID: 1 at arch/arm64/kvm/nested.c:1 foo+0x1/0x2",
    "[    1.0] Kernel panic - not syncing: Attempted to kill init!",
    "[    1.0] BUG: KASAN: slab-use-after-free in foo",
    "[    1.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
    "[    1.0] rcu: INFO: rcu_sched self-detected stall on CPU",
    "[    1.0] WARNING: possible circular locking dependency detected",
    "[    1.0] UBSAN: shift-out-of-bounds in foo.c:1",
    "[    1.0] INFO: task qemu:1 blocked for more than 120 seconds.",
    "[    1.0] kernel BUG at arch/arm64/kvm/nested.c:1!",
])
def test_splats_are_recognised(line):
    assert SPLAT.search(line)


@pytest.mark.quick
def test_splat_comes_with_what_follows(tmp_path):
    console = Console("L1", tmp_path, time.monotonic())
    console.feed(b"[    1.0] fine\r\n[    1.1] WARNING: CPU: 0 PID: 1\r\n[    1.1] Call tr")
    console.feed(b"ace:\n[    1.1]  foo+0x1/0x2\n")
    assert console.splats() == ["L1: [    1.1] WARNING: CPU: 0 PID: 1\nL1: [    1.1] Call trace:\nL1: [    1.1]  foo+0x1/0x2"]


@pytest.mark.quick
def test_lines_in_the_middle_of_lines_are_taken_apart(tmp_path):
    console = Console("L1", tmp_path, time.monotonic())
    console.feed(b"(XEN) one\r\ncpus=1 sec(XEN) DOM1: two\r\n(XEN) three\r\nonds=5.36(XEN) four\r\n\r\nfive\r\n")
    assert console.lines == ["(XEN) one", "(XEN) DOM1: two", "(XEN) three", "(XEN) four", "cpus=1 seconds=5.36", "five"]


@pytest.mark.quick
def test_missing_kernel_is_named(disks):
    with pytest.raises(Fail, match="(?s)the emulator (did not start|ended).*no-such-image"):
        with Machine("/no-such-image", disks, "missing") as machine:
            machine.boot(20)
    assert leftovers() == []


@pytest.mark.normal
@pytest.mark.parametrize("after", [1, 6])
def test_interrupt_leaves_nothing(after, image, disks):
    """Ctrl-C: the whole foreground group gets SIGINT."""
    program = ("import sys; from workbench.emulator import Machine\n"
               f"with Machine({str(image)!r}, {[str(d) for d in disks]!r}, 'interrupted') as m: m.boot(); m.wait('L0', 'never', 99)")
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    process.wait(20)
    assert leftovers() == []
