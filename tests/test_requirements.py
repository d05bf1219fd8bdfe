"""kvm-arm.mode=nested on machines that cannot do it: the host says why, and has ordinary guests."""

import pytest

from workbench.emulator import Machine


@pytest.mark.normal
@pytest.mark.parametrize("cpu, gic, lacks", [
    ("cortex-a72", 3, "kernel doesn't run with VHE"),
    ("neoverse-n1", 3, "CPUs lack FEAT_NV2"),
    ("max,lpa2=off,sme=off", 2, "no usable GICv3"),
], ids=("VHE", "FEAT_NV2", "GICv3"))
def test_what_is_missing_is_told(cpu, gic, lacks, image, disks):
    """No CPU that QEMU has lacks FEAT_S2FWB alone."""
    guest, version = "/nest/guest L1", f"-- -machine gic-version={gic}"
    with Machine(image, disks, f"requirements-{cpu.split(',')[0]}-gic{gic}", cpu=cpu,
                 options=("-machine", f"gic-version={gic}")) as machine:
        machine.boot()
        told = machine.run("dmesg | grep 'Nested virtualization'")[1].splitlines()
        assert len(told) == 1 and told[0].endswith(f"Nested virtualization unavailable: {lacks}"), told
        status, output = machine.run(f"{guest} {version}")
        assert status == 0, output
        assert machine.report("L1", 1)["el"] == "EL1"
        status, output = machine.run(f"{guest} --el2 {version}")
        assert status == 1 and "does not support providing Virtualization extensions" in output, output
        machine.power_off()
