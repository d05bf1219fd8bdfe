"""Choice of the base kernel."""

import pytest

from workbench import base
from workbench.ui import Fail

pytestmark = pytest.mark.quick

VERSIONS = ["6.12.90-2", "6.12.117-1", "6.12.9-1", "6.16.3-1~bpo13+1"]


def test_pinned_version_is_taken():
    assert base.choose(VERSIONS, "6.12.90") == "6.12.90-2"


def test_newest_is_taken_when_the_pinned_one_is_gone():
    assert base.choose(VERSIONS, "6.12.50") == "6.12.117-1"


def test_no_kernel_at_all():
    with pytest.raises(Fail, match="no linux-source-6.12: give the kernel with LINUX="):
        base.choose(["6.16.3-1"], "6.12.117")


def test_pin_is_a_612():
    assert base.pinned().startswith("6.12.")


def test_bad_pin_is_named(tmp_path, monkeypatch):
    pin = tmp_path / "linux-version"
    pin.write_text("7.0\n")
    monkeypatch.setattr(base, "PIN", pin)
    with pytest.raises(Fail, match="linux-version says '7.0'"):
        base.pinned()
