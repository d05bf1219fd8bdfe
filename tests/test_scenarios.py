"""Boot scenarios of workbench/scenarios.py, and the demo."""

import re

import pytest

from workbench import demo, images, kernel, scenarios, stock, vmm
from workbench.ui import Steps


@pytest.mark.parametrize("scenario", [pytest.param(s, id=s.name, marks=getattr(pytest.mark, s.tier))
                                      for s in scenarios.TABLE])
def test_scenario(scenario, image, disks):
    stock_kernels = scenarios.stock_of(scenario)
    if scenario.kernel != "small" or stock_kernels:
        with Steps(1).step(f"payload of {scenario.name}") as step:
            image = kernel.build(scenario.kernel, step)
            folders = [(kernel.programs(step), "bin")]
            folders += [(stock.make(name, step), f"stock/{name}") for name in stock_kernels]
            if scenarios.has_xen(scenario):
                folders.append((vmm.xen(), "xen"))
            disks = [disks[0], images.payload(f"scenario-{scenario.name}", image, folders)]
    reports = scenarios.play(scenario, image, disks)
    assert scenarios.unexpected(scenario, reports) == []


@pytest.mark.quick
def test_scenario_mismatch_is_named():
    scenario = scenarios.TABLE[0]
    reports = {level: dict(fields) for level, fields in scenario.expect.items()}
    assert scenarios.unexpected(scenario, reports) == []
    reports["L1"]["el"] = "EL2"
    assert scenarios.unexpected(scenario, reports) == ["L1: el is EL2, not EL1"]


@pytest.mark.normal
def test_demo(image, disks):
    with Steps(1).step("demo") as step:
        rows = demo.play(step, image, disks)
    assert rows[0]["VMM"] == "QEMU TCG" and re.fullmatch(r"QEMU 11\.\d+\.\d+", rows[1]["VMM"])
    counts = rows[1]["statistics"]
    assert all(counts[name] > 0 for name in ("exits", "nested_exits_sync", "nested_erets_slow", "nested_shadow_faults"))
    assert all(text in demo.told(rows) for text in demo.STATISTICS.values())
    assert [(row["level"], row["EL"], row["mode"]) for row in rows] == [
        ("L0", "EL2", "VHE"), ("L1", "vEL2", "VHE"), ("L2", "EL1", "-")]
    assert all(row["seconds"] > 0 and row["kernel"].startswith("6.12.") for row in rows)
    assert [line.split()[0] for line in demo.table(rows).splitlines()] == ["level", "L0", "L1", "L2"]


@pytest.mark.long
def test_demo_without_vhe(image, disks):
    with Steps(1).step("demo --e2h0") as step:
        rows = demo.play(step, image, disks, e2h0=True)
    assert [(row["level"], row["EL"], row["mode"], row["VMM"]) for row in rows] == [
        ("L0", "EL2", "VHE", "QEMU TCG"), ("L1", "vEL2", "nVHE", "nestvm"), ("L2", "EL1", "-", "nestvm")]
    assert rows[1]["statistics"]["nested_shadow_faults"] > 0


@pytest.mark.quick
def test_virtual_el2_is_told_apart():
    report = {"release": "6.12.1", "el": "EL2", "mode": "VHE", "cpus": "4", "seconds": "1.25"}
    assert demo.row("L0", report, "QEMU")["EL"] == "EL2"
    assert demo.row("L1", report, "QEMU")["EL"] == "vEL2"


@pytest.mark.quick
def test_every_scenario_line_is_sound():
    names = [scenario.name for scenario in scenarios.TABLE]
    assert len(names) == len(set(names))
    for scenario in scenarios.TABLE:
        assert scenario.kernel in kernel.FLAVOURS and "L0" in scenario.expect
