"""Choice of the base kernel."""

import subprocess

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


@pytest.mark.parametrize("answer, outcome", [("", True), ("E: Failed 404  Not Found", False), ("E: no route", Fail)])
def test_fetch_tells_gone_from_broken(answer, outcome, tmp_path, monkeypatch):
    def apt_helper(command, **_):
        (tmp_path / "a.tar.partial").write_text("content")
        return subprocess.CompletedProcess(command, 100 if answer else 0, "", answer)
    monkeypatch.setattr(base.subprocess, "run", apt_helper)
    if outcome is Fail:
        with pytest.raises(Fail, match="downloading a.tar.xz failed: E: no route"):
            base.fetch("http://mirror.invalid/a.tar.xz", "SHA256:0", tmp_path / "a.tar.xz")
    else:
        assert base.fetch("http://mirror.invalid/a.tar.xz", "SHA256:0", tmp_path / "a.tar.xz") is outcome
        assert (tmp_path / "a.tar.xz").exists() is outcome
