"""Choice of the base kernel."""

import subprocess

import pytest

from workbench import base
from workbench.ui import Fail, Steps

pytestmark = pytest.mark.quick

VERSIONS = ["6.12.90-2", "6.12.117-1", "6.12.9-1", "6.16.3-1~bpo13+1"]


def test_pinned_version_is_taken():
    assert base.choose(VERSIONS, "6.12.90") == "6.12.90-2"


def test_newest_is_taken_when_the_pinned_one_is_gone():
    assert base.choose(VERSIONS, "6.12.50") == "6.12.117-1"


def test_taking_another_version_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(base, "CACHE", tmp_path)
    monkeypatch.setattr(base, "pinned", lambda: "6.12.50")
    monkeypatch.setattr(base, "apt_update", lambda: None)
    monkeypatch.setattr(base, "versions_of", lambda package: VERSIONS)
    monkeypatch.setattr(base, "download", lambda package, version, folder: version)
    with Steps(1).step("test") as step:
        assert base.debian_source(step) == ("6.12.117", "6.12.117-1")
    assert "Debian no longer has 6.12.50; taking its newest 6.12.y, 6.12.117" in capsys.readouterr().out


def test_lists_that_cannot_be_had_are_told(monkeypatch):
    def apt(command, **_):
        raise Fail(f"{command[0]} failed")
    monkeypatch.setattr(base, "run", apt)
    with pytest.raises(Fail, match="apt-get failed: check the network, or name another mirror with MIRROR="):
        base.apt_update()


def test_old_lists_are_renewed_for_a_download(tmp_path, monkeypatch):
    calls = []

    def apt(command, cwd=None, **_):
        calls.append(command[1])
        if command[1] == "download" and "update" not in calls:
            raise Fail("404")
        if cwd:
            (cwd / "xen_1_arm64.deb").touch()
    monkeypatch.setattr(base, "run", apt)
    assert base.download("xen:arm64", "1", tmp_path) == tmp_path / "xen_1_arm64.deb"
    assert calls == ["download", "update", "download"]


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


def test_debians_patches_are_taken_back(tmp_path, monkeypatch):
    """What stands in for the upstream release: Debian's source less its own patches to the files asked for."""
    monkeypatch.setattr(base, "BUILD", tmp_path)
    linux, patches = tmp_path / "linux", tmp_path / "debian/patches"
    linux.mkdir()
    patches.mkdir(parents=True)
    (linux / "Makefile").write_text("VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 117\n")
    for name in ("ours", "other"):
        (linux / name).write_text("Debian\n")
        (patches / f"{name}.patch").write_text(f"--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-Linus\n+Debian\n")
    (patches / "series").write_text("# a comment\nours.patch\nother.patch\n")
    packaging = tmp_path / "linux_6.12.117-1.debian.tar"
    subprocess.run(["tar", "-cf", packaging, "-C", tmp_path, "debian"], check=True)
    debian = base.import_folder(linux, tmp_path / "debian.git", "Debian")
    less = base.without_patches(debian, packaging, ["ours"], "upstream")
    assert [base.git("show", f"base:{name}", cwd=less.repo) for name in ("ours", "other")] == ["Linus\n", "Debian\n"]
    assert (less.version, less.origin) == ("6.12.117", "upstream")
