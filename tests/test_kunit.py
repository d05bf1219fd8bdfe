"""The series' KUnit tests, in a booted kernel."""

import re

import pytest

from workbench.emulator import WARNINGS, Machine


@pytest.mark.normal
def test_kunit(image, disks):
    with Machine(image, disks, "kunit", smp=1, append=f"{WARNINGS} kunit.enable=1") as machine:
        machine.boot()
        status, output = machine.run("cat /sys/kernel/debug/kunit/*/results")
    assert status == 0, output
    suites = re.findall(r"^# (\S+): pass:(\d+) fail:(\d+) skip:\d+ total:\d+$", output, re.M)
    assert {"kvm_arm64_nested", "kvm_arm64_nested_resx", "kvm_arm64_nested_vel2"} <= {name for name, _, _ in suites}, output
    assert all(int(passed) > 0 and failed == "0" for _, passed, failed in suites), output
