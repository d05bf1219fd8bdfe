"""Boot scenarios of workbench/scenarios.py, and the demo."""

import re
import time
from contextlib import nullcontext

import pytest

from workbench import acts, demo, images, kernel, scenarios
from workbench.ui import Fail, Steps


def disks_of(scenario, disks):
    """The shared disks, the payload with what the scenario's guests need on top."""
    with Steps(1).step(f"payload of {scenario.name}") as step:
        folders = scenarios.folders(scenario, step)
        if not folders:
            return disks
        folders.append((kernel.PROGRAMS, "bin"))
        return [disks[0], images.payload(f"scenario-{scenario.name}", kernel.image_of("small"), folders)]


@pytest.mark.parametrize("scenario", [pytest.param(s, id=s.name, marks=getattr(pytest.mark, s.tier))
                                      for s in scenarios.TABLE])
def test_scenario(scenario, image, disks):
    if scenario.kernel != "small":
        with Steps(1).step(f"kernel of {scenario.name}") as step:
            image = kernel.build(scenario.kernel, step)
    reports = scenarios.play(scenario, image, disks_of(scenario, disks))
    assert scenarios.unexpected(scenario, reports) == []


# Ways to run a guest hypervisor, with 1 and with 4 vCPUs, on `max` and on Neoverse V1.
MATRIX = ("nested", "nested-smp", "nested-neoverse", "nestvm-nested-neoverse-smp",
          "nested-nvhe", "nested-nvhe-smp", "nested-nvhe-neoverse", "nested-nvhe-neoverse-smp",
          "nested-protected", "nested-protected-smp", "nested-protected-neoverse", "nested-protected-neoverse-smp",
          "xen", "xen-smp", "xen-neoverse", "xen-neoverse-smp")


@pytest.mark.long
@pytest.mark.parametrize("name", ("vel2", "vel2-smp") + MATRIX)
def test_ten_boots_in_a_row(name, image, disks):
    scenario = scenarios.named(name)
    disks = disks_of(scenario, disks)
    for _ in range(10):
        assert scenarios.unexpected(scenario, scenarios.play(scenario, image, disks)) == []


@pytest.mark.quick
def test_scenario_mismatch_is_named():
    scenario = scenarios.TABLE[0]
    reports = {level: dict(fields) for level, fields in scenario.expect.items()}
    assert scenarios.unexpected(scenario, reports) == []
    reports["L1"]["el"] = "EL2"
    assert scenarios.unexpected(scenario, reports) == ["L1: el is EL2, not EL1"]


@pytest.mark.normal
def test_vmm_that_fails_is_told_at_once(image, disks):
    scenario = scenarios.TABLE[0]._replace(name="no-guest", guest="--smp 0")
    with pytest.raises(Fail, match=r"L1: its VMM ended with status 1: .*Invalid CPU topology"):
        scenarios.play(scenario, image, disks)


class Idle:
    """A host that only tells how much memory is in use."""

    def __init__(self, *, free, tables=0, machines=0):
        self.text = (f"MemTotal: 9000 kB\nMemFree: {free} kB\nSecPageTables: {tables} kB\nPageTables: 8 kB\n"
                     f"KernelStack: 8 kB\nPercpu: 8 kB\nSUnreclaim: 8 kB\nOnLists: 100 kB\n{machines}")
        self.consoles = {}

    def run(self, command):
        return 0, self.text


@pytest.mark.quick
@pytest.mark.parametrize("left, told", [
    ({"free": 8000}, ""), ({"free": 7000}, ""), ({"free": 6000}, "'Used': 2000"),
    ({"free": 8000, "tables": 4}, "'SecPageTables': 4"), ({"free": 8000, "machines": 1}, "outlived its VMM")])
def test_what_killed_guests_leave_behind_is_told(left, told):
    before = acts.idle(Idle(free=8000))
    if told:
        with pytest.raises(Fail, match=told):
            acts.compare(before, acts.idle(Idle(**left)), 1)
    else:
        acts.compare(before, acts.idle(Idle(**left)), 1)


@pytest.mark.quick
@pytest.mark.parametrize("frees, told", [([6000, 6000, 7900], False), ([6000] * 5, True)])
def test_memory_that_is_freed_late_is_not_lost(frees, told, monkeypatch):
    monkeypatch.setattr(acts.time, "sleep", lambda seconds: None)
    before, later = acts.idle(Idle(free=8000)), iter(frees)
    monkeypatch.setattr(acts, "idle", lambda host: before | {"Used": before["Used"] + 8000 - next(later)})
    with pytest.raises(Fail, match="'Used': 2000") if told else nullcontext():
        acts.left_behind(None, before, 1)
    assert not list(later)


@pytest.mark.quick
def test_way_of_pressure_that_did_nothing_is_told():
    ways = acts.PRESSURE["L0"] + acts.MONITOR
    told = "\n".join(f"press: {way} 1 of 2" for way in ways)
    acts.check_pressure("L0", ways, told)
    with pytest.raises(Fail, match="no pressure on its guest by merge"):
        acts.check_pressure("L0", ways, told.replace("merge 1", "merge 0"))


@pytest.mark.normal
def test_load_tells_what_is_lost(host):
    prepare = "truncate -s 4M /tmp/disk; d=$(losetup -f); losetup $d /tmp/disk; "
    end = "; status=$?; losetup -d $d; exit $status"
    status, output = host.run(prepare + "/nest/bin/load 1 memory 8 disk $d" + end)
    assert status == 0 and "memory: 2048 pages" in output and "disk: " in output
    spoil = "(sleep 1; dd if=/dev/zero of=/tmp/disk bs=1M count=4 conv=notrunc 2>/dev/null) & "
    status, output = host.run(prepare + spoil + "/nest/bin/load 4 memory 8 disk $d" + end)
    assert status == 1 and "LOST: block" in output and "1 kinds of load failed" in output


@pytest.mark.normal
def test_demo(image, disks):
    with Steps(1).step("demo") as step:
        rows = demo.play(step, image, disks)
    assert rows[0]["VMM"] == "QEMU TCG" and re.fullmatch(r"QEMU (1[1-9]|[2-9]\d)\.\d+\.\d+", rows[1]["VMM"])
    counts = rows[1]["statistics"]
    assert all(counts[name] > 0 for name in ("exits", "nested_exits_sync", "nested_erets_slow", "nested_shadow_faults"))
    assert all(text in demo.told(rows) for text in demo.STATISTICS.values())
    assert [(row["level"], row["EL"], row["mode"]) for row in rows] == [
        ("L0", "EL2", "VHE"), ("L1", "vEL2", "VHE"), ("L2", "EL1", "-")]
    assert all(row["seconds"] > 0 and row["kernel"].startswith("6.12.") for row in rows)
    assert [line.split()[0] for line in demo.table(rows).splitlines()] == ["level", "L0", "L1", "L2"]


@pytest.mark.long
def test_twenty_demos_in_a_row(image, disks):
    for _ in range(20):
        start = time.monotonic()
        with Steps(1).step("demo") as step:
            demo.play(step, image, disks)
        assert time.monotonic() - start < 90


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
        assert scenario.kernel in kernel.FLAVOURS and {"L0", *scenarios.guests_of(scenario)} <= set(scenario.expect)
