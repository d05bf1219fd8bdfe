"""./nest itself: help, and refusals before the toolbox exists."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from workbench import ui
from workbench.paths import ROOT

pytestmark = pytest.mark.quick

COMMANDS = ("demo", "test", "tree", "export", "check", "build", "boot", "shell", "bench", "clean")
NEST = ROOT / "nest"

# What the front door needs of the host before it can make the toolbox.
TOOLS = ("bash", "readlink", "dirname", "cat", "id", "awk", "grep", "sed", "sort", "sha256sum", "cut", "df",
         "mkdir", "rm", "mv", "flock", "unshare", "setpriv", "setsid",
         "tar", "tail", "sleep", "paste", "sh", "env", "cp", "touch")


class Fresh:
    """A host with the named tools only, fake ones where the test says so."""

    def __init__(self, folder):
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.root = folder / "clone"
        self.root.mkdir()
        for name in ("nest", "toolbox", "userland", "workbench"):
            (self.root / name).symlink_to(ROOT / name)
        (self.root / "nest").unlink()
        (self.root / "nest").write_bytes(NEST.read_bytes())
        (self.root / "nest").chmod(0o755)
        self.real(*TOOLS)
        self.fake("apt-get", "echo http://mirror.invalid/debian/")
        self.fake("apt-config", "echo 'Acquire::Retries \"3\";'")
        self.fake("mmdebstrap", "exit 1")
        self.env = {"PATH": str(self.bin), "HOME": str(folder), "LC_ALL": "C"}

    def real(self, *tools):
        for tool in tools:
            (self.bin / tool).symlink_to(shutil.which(tool))

    def fake(self, tool, script):
        (self.bin / tool).unlink(missing_ok=True)
        (self.bin / tool).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / tool).chmod(0o755)

    def nest(self, *args):
        result = subprocess.run([self.bin / "bash", self.root / "nest", *args], env=self.env, text=True,
                                capture_output=True, check=False)
        return result.returncode, result.stdout, result.stderr


@pytest.fixture
def fresh(tmp_path):
    return Fresh(tmp_path)


def test_overview_names_each_command(fresh):
    status, output, _ = fresh.nest("--help")
    assert status == 0
    assert all(re.search(rf"^  {command} ", output, re.M) for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_each_option(command, fresh):
    status, output, _ = fresh.nest(command, "--help")
    assert status == 0 and output.startswith(f"usage: ./nest {command}")
    source = (ROOT / "workbench/__main__.py").read_text() + (ROOT / "workbench/bench.py").read_text()
    assert set(re.findall(r"--[a-z]+", output)) <= set(re.findall(r"--[a-z]+", source)) | {"--strict", "--help"}


def test_unknown_command(fresh):
    assert fresh.nest("dmeo") == (2, "", "nest: no command 'dmeo'; './nest --help' lists them\n")


@pytest.mark.parametrize("tool", ["apt-get", "unshare"])
def test_missing_tool(tool, fresh):
    (fresh.bin / tool).unlink()
    status, _, message = fresh.nest("tree")
    assert status == 1 and message.startswith(f"nest: '{tool}' is missing: ")


def test_without_root_what_is_missing_is_told(fresh):
    fresh.fake("id", "echo 1000")
    fresh.fake("unshare", "exit 0")     # namespaces are allowed
    (fresh.bin / "mmdebstrap").unlink()
    status, _, message = fresh.nest("tree")
    assert status == 1 and message.startswith("nest: without root, install once: sudo apt-get install mmdebstrap ")


def test_too_little_disk(fresh):
    fresh.fake("df", "printf 'Filesystem 1024-blocks Used Available Capacity Mounted\\n/dev/x 9 9 1048576 9%% /\\n'")
    status, _, message = fresh.nest("tree")
    assert status == 1 and "1 GiB free, the toolbox needs 6" in message and "XDG_CACHE_HOME" in message


def test_no_network(fresh):
    fresh.fake("mmdebstrap", "echo 'Temporary failure resolving mirror.invalid'; exit 25")
    status, _, message = fresh.nest("tree")
    assert status == 1 and "no network to the mirror" in message and "MIRROR=" in message
    assert list((Path(fresh.env["HOME"]) / ".cache/nest").glob("toolbox-*")) == []


def test_no_mirror(fresh):
    fresh.fake("apt-get", "echo http://archive.invalid/ubuntu/")
    status, _, message = fresh.nest("tree")
    assert status == 1 and "no Debian mirror" in message and "MIRROR=" in message


def test_mirror_and_apt_settings_reach_the_toolbox(fresh):
    fresh.fake("mmdebstrap", 'for a; do last=$a; done; cat "$last"; echo "$@"; '
               'for a; do case $a in --aptopt=*) cat "${a#--aptopt=}";; esac; done; exit 1')
    fresh.env["MIRROR"] = "http://mine.invalid/debian/"
    status, _, message = fresh.nest("tree")
    log = (fresh.root / "build/log/toolbox.log").read_text()
    assert status == 1 and "log: build/log/toolbox.log" in message
    assert "deb http://mine.invalid/debian trixie-backports main" in log
    assert "deb http://mine.invalid/debian-security trixie-security main" in log
    assert 'Acquire::Retries "3";' in log


def test_mirror_reaches_a_toolbox_that_is_there(fresh):
    toolbox = Path(fresh.env["HOME"]) / ".cache/nest" / f"toolbox-{key_of(*sorted((fresh.root / 'toolbox').iterdir()))}"
    for folder in ("apt.conf.d", "sources.list.d"):
        (toolbox / "etc/apt" / folder).mkdir(parents=True)
    fresh.env["MIRROR"] = "http://mine.invalid/debian/"
    fresh.nest("tree")      # for want of a userland it goes no further
    assert not (toolbox / "etc/apt/sources.list.d/0000sources.list").exists()
    userland = key_of(fresh.root / "toolbox/sources", fresh.root / "toolbox/preferences", fresh.root / "userland/packages")
    (toolbox.parent / f"userland-{userland}.tar").touch()
    fresh.nest("tree")
    sources = (toolbox / "etc/apt/sources.list.d/0000sources.list").read_text()
    assert "deb http://mine.invalid/debian trixie-backports main" in sources


def test_half_made_toolbox_is_not_trusted(fresh):
    half = Path(fresh.env["HOME"]) / ".cache/nest/tmp.toolbox/root"
    half.mkdir(parents=True)
    fresh.nest("tree")
    assert not half.exists()


def test_linux_that_does_not_exist(fresh):
    fresh.env["LINUX"] = "/no/such/kernel"
    status, _, message = fresh.nest("tree")
    assert status == 1
    assert message == ("nest: LINUX=/no/such/kernel does not exist: "
                       "give a folder, tarball or git tree of Linux 6.12.y\n")


def test_packages_are_pinned_to_backports():
    assert "trixie-backports" in (ROOT / "toolbox/preferences").read_text()
    assert os.access(NEST, os.X_OK)


def test_too_little_disk_for_the_workbench(tmp_path, monkeypatch):
    monkeypatch.setattr(ui.os, "statvfs", lambda folder: os.statvfs_result((4096, 4096, 0, 0, 1 << 19, 0, 0, 0, 0, 255)))
    ui.need_disk(2, "the test", tmp_path)
    with pytest.raises(ui.Fail, match=r"has 2.0 GiB free, the test needs 3: make room, or run './nest clean'"):
        ui.need_disk(3, "the test", tmp_path)


def test_change_that_must_be_whole_is_not_interrupted():
    def stop(number, frame):
        raise KeyboardInterrupt

    before, whole = signal.signal(signal.SIGTERM, stop), False
    try:
        with pytest.raises(KeyboardInterrupt), ui.uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            whole = subprocess.run(["sh", "-c", "kill -TERM $$; true"], check=False).returncode == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert whole


def test_interrupted_command_has_time_to_clean_up(tmp_path):
    def interrupt(_):
        raise KeyboardInterrupt

    script = "trap 'sleep 0.5; touch cleaned; exit' TERM; echo started; while :; do sleep 0.1; done"
    with pytest.raises(KeyboardInterrupt):
        ui.run(["sh", "-c", script], log=tmp_path / "log", on_line=interrupt, cwd=tmp_path)
    assert (tmp_path / "cleaned").exists()


def test_half_made_file_is_not_there(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\necho half >"$2"; exit $(cat status)\n')
    compiler.chmod(0o755)
    for status in (1, 0):
        (tmp_path / "status").write_text(f"{status}\n")
        command = ["env", f"--chdir={tmp_path}", str(compiler)]
        if status:
            with pytest.raises(ui.Fail):
                ui.run_into(command, tmp_path / "program", tmp_path / "log")
        else:
            ui.run_into(command, tmp_path / "program", tmp_path / "log")
        assert (tmp_path / "program").exists() == (status == 0)


def commands():
    """Command lines of all processes."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip())
        except OSError:
            pass
    return found


def key_of(*files):
    """As the function of that name in ./nest."""
    text = subprocess.run(["sh", "-c", 'cat "$@" | sha256sum | cut -c1-12', "sh", *files], check=True,
                          capture_output=True, text=True)
    return text.stdout.strip()


def gone(word):
    """Is every process with that word in its command line gone, within ten seconds?"""
    deadline = time.monotonic() + 10
    while any(word in command for command in commands()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(word in command for command in commands())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_end_of_the_setup_leaves_no_process(number, fresh):
    """mmdebstrap passes a signal on to none of its children."""
    fresh.fake("mmdebstrap", "trap '' INT; sleep 98764 & wait")
    run = subprocess.Popen([fresh.bin / "bash", fresh.root / "nest", "tree"], env=fresh.env, start_new_session=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not any("98764" in command for command in commands()):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(run.pid, number)
    run.wait(20)
    assert gone("98764")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_end_at_any_point_leaves_no_process_and_no_mount(number, fresh):
    """The front door enters its namespaces for real; the workbench in them is a stub with a child."""
    cache = Path(fresh.env["HOME"]) / ".cache/nest"
    cache.mkdir(parents=True)
    root = fresh.root
    (cache / f"toolbox-{key_of(*sorted((root / 'toolbox').iterdir()))}").symlink_to("/")
    userland = key_of(root / "toolbox/sources", root / "toolbox/preferences", root / "userland/packages")
    (cache / f"userland-{userland}.tar").touch()
    (root / "workbench").unlink()
    shutil.copytree(ROOT / "workbench/help", root / "workbench/help")
    (root / "workbench/__main__.py").write_text(
        "import subprocess, pathlib\npathlib.Path('/nest/entered').touch()\nsubprocess.run(['sleep', '98765'])\n")
    fresh.env["PATH"] += ":/usr/sbin:/usr/bin"
    # The toolbox's root is no mount point, and its namespace private already.
    fresh.fake("unshare", f'exec {shutil.which("unshare")} --propagation unchanged "$@"')
    mounts = Path("/proc/self/mounts").read_text()
    run = subprocess.Popen([fresh.bin / "bash", root / "nest", "tree"], env=fresh.env, start_new_session=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (root / "entered").exists():
        assert run.poll() is None and time.monotonic() < deadline, run.stderr.read()
        time.sleep(0.05)
    if number == signal.SIGKILL:
        run.kill()
    else:
        os.killpg(run.pid, number)
    run.wait(20)
    assert gone("98765")
    assert Path("/proc/self/mounts").read_text() == mounts
