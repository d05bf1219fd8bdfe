"""Costs of ordinary guests, beside the unpatched kernel."""

import pytest

from workbench import bench, kernel
from workbench.ui import Steps


@pytest.mark.quick
def test_comparison():
    rows = bench.compare({"hypercall": 1313.0}, {"hypercall": 1300.0})
    assert rows[0]["percent"] == pytest.approx(1.0)
    assert "+1.00%" in bench.table(rows)


@pytest.mark.normal
def test_ordinary_guests_pay_nothing(image, disks):
    """Exits of a VM without EL2 cost within 1 % of what they cost on the unpatched kernel."""
    with Steps(1).step("unpatched kernel") as step:
        peer = kernel.build("base-small", step)
    rows = bench.play(image, peer, disks, Steps(2))
    assert [row["operation"] for row in rows] == ["hypercall", "mmio-kernel", "mmio-user"]
    for row in rows:
        assert 100 < row["patched"] < 100_000
        assert abs(row["percent"]) <= 1, row
