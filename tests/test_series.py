"""The series: tree, export and check on a tiny kernel of the test's own."""

import os
import re
import subprocess
import sys

import pytest

from workbench.paths import ROOT

pytestmark = pytest.mark.quick

# So long that git folds the header, and commits of another time than their authors'.
NAME, EMAIL = "A Tester of the Series", "a.tester.of.the.series@users.noreply.tester.example"
IDENTITY = {"GIT_AUTHOR_NAME": NAME, "GIT_AUTHOR_EMAIL": EMAIL, "GIT_COMMITTER_NAME": NAME,
            "GIT_COMMITTER_EMAIL": EMAIL, "GIT_NAME": NAME, "GIT_EMAIL": EMAIL,
            "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z"}


# Knows the options in the file Kconfig; a warning is a line of the source that says so.
MAKEFILE = """VERSION = 6
PATCHLEVEL = {}
SUBLEVEL = 117
EXTRAVERSION =
allnoconfig: ; grep -x "$$(cat Kconfig)" $(KCONFIG_ALLCONFIG) >$(O)/.config || true
arch/arm64/kvm/: ; @grep -H " warning: " arch/arm64/kvm/nested.c || true
arch/arm64/kernel/: ; @:
.PHONY: arch/arm64/kvm/ arch/arm64/kernel/
"""


class Workspace:
    """A repository of the workbench with its own cache and a kernel of three files."""

    def __init__(self, folder):
        self.root, self.linux = folder / "repo", folder / "linux-6.12"
        self.tree, self.patches = self.root / "build/linux", self.root / "patches"
        (self.root / "build").mkdir(parents=True)
        self.patches.mkdir()
        (folder / "cache").mkdir()
        (self.root / "linux-version").write_text("6.12.117\n")
        (self.patches / "cover-letter.md").write_text("A series\n\nWhat it is for.\n")
        (self.linux / "arch/arm64/kvm").mkdir(parents=True)
        self.version(12)
        (self.linux / "Kconfig").write_text("CONFIG_KVM=y\n")
        (self.root / "config").mkdir()
        (self.root / "config/small.config").write_text("CONFIG_KVM=y\n")
        (self.root / "config/series.config").write_text("CONFIG_OF_THE_SERIES=y\n")
        (self.linux / "arch/arm64/kvm/nested.c").write_text("".join(f"line {n}\n" for n in range(40)))
        self.env = {**os.environ, **IDENTITY, "LINUX": str(self.linux), "NEST_REPOSITORY": str(self.root),
                    "NEST_STORE": str(folder / "cache")}

    def version(self, minor):
        (self.linux / "Makefile").write_text(MAKEFILE.format(minor))

    def nest(self, *args, ok=True):
        result = subprocess.run([sys.executable, "-m", "workbench", *args], env=self.env, text=True,
                                capture_output=True, check=False)
        assert (result.returncode == 0) == ok, result.stdout + result.stderr
        return result.stderr if not ok else result.stdout

    def git(self, *args):
        return subprocess.run(["git", *args], cwd=self.tree, env=self.env, text=True, check=True,
                              capture_output=True).stdout.strip()

    def change(self, line, text, message=None):
        file = self.tree / "arch/arm64/kvm/nested.c"
        lines = file.read_text().splitlines()
        lines[line] = text
        file.write_text("\n".join(lines) + "\n")
        if message:
            self.git("commit", "-q", "-a", "-m", f"{message}\n\nWhy so.\n\nSigned-off-by: {NAME} <{EMAIL}>")

    def snapshot(self):
        return {p.name: p.read_bytes() for p in self.patches.iterdir()}


@pytest.fixture
def work(tmp_path):
    return Workspace(tmp_path)


@pytest.fixture
def series(work):
    """A workspace with two exported patches."""
    work.nest("tree")
    work.change(3, "three", "KVM: arm64: Say three")
    work.change(30, "thirty", "KVM: arm64: Say [thirty]")
    work.nest("export")
    return work


def test_round_trip_is_byte_stable(series):
    first, tree = series.snapshot(), series.git("rev-parse", "HEAD^{tree}")
    assert sorted(first) == ["0000-cover-letter.patch", "0001-KVM-arm64-Say-three.patch",
                             "0002-KVM-arm64-Say-thirty.patch", "README.md", "cover-letter.md"]
    assert "unchanged" in series.nest("export")
    subprocess.run(["rm", "-rf", series.tree], check=True)
    series.nest("tree")
    assert series.git("log", "-1", "--format=%s") == "KVM: arm64: Say [thirty]"
    assert "What it is for." in first["0000-cover-letter.patch"].decode()
    assert "unchanged" in series.nest("export")
    assert series.snapshot() == first
    assert "2 patches as exported" in run_check(series)
    assert series.git("rev-parse", "HEAD^{tree}") == tree
    assert first["0000-cover-letter.patch"].decode().count(EMAIL) == 1


def test_overview_lists_each_patch(series):
    text = (series.patches / "README.md").read_text()
    assert "| 0001 | KVM: arm64: Say three | KVM | `kvm/nested.c` | 1 | 1 |" in text
    assert "2 patches on Linux 6.12.117, 2 lines added, 2 removed" in text


def test_tree_twice_changes_nothing(series):
    head = series.git("rev-parse", "HEAD")
    assert "unchanged" in series.nest("tree")
    assert series.git("rev-parse", "HEAD") == head


def test_uncommitted_work_stops_tree(series):
    series.change(5, "five")
    (series.tree / "new.c").write_text("new\n")
    message = series.nest("tree", ok=False)
    assert "2 uncommitted files" in message and "arch/arm64/kvm/nested.c" in message and "new.c" in message
    assert "./nest export" in message
    assert "five" in (series.tree / "arch/arm64/kvm/nested.c").read_text()
    message = series.nest("export", ok=False)
    assert "2 uncommitted files" in message


def test_unexported_commit_stops_tree(series):
    series.change(5, "five", "KVM: arm64: Say five")
    message = series.nest("tree", ok=False)
    assert "1 unexported commit" in message and "KVM: arm64: Say five" in message
    series.nest("export")
    assert (series.patches / "0003-KVM-arm64-Say-five.patch").exists()
    series.nest("tree")


def test_unexported_commit_on_the_branch_is_seen_from_elsewhere(series):
    series.change(5, "five", "KVM: arm64: Say five")
    series.git("checkout", "-q", "--detach", "HEAD^")
    for command in (["tree"], ["clean", "--all"]):
        message = series.nest(*command, ok=False)
        assert "1 unexported commit" in message and "Say five on branch series, which is not checked out" in message
    patch = series.patches / "0001-KVM-arm64-Say-three.patch"
    patch.write_text(patch.read_text().replace("+three", "+drei"))
    assert "Two lines of work" in series.nest("build", ok=False)
    assert series.git("log", "-1", "--format=%s", "series") == "KVM: arm64: Say five"


def test_rewritten_commit_stops_tree(series):
    series.git("reset", "-q", "--hard", "HEAD^")
    assert "unexported commit" in series.nest("tree", ok=False)


def test_rebase_in_progress_stops_both(series):
    (series.tree / ".git/rebase-merge").mkdir()
    assert "a rebase-merge in progress" in series.nest("tree", ok=False)
    assert "a rebase-merge in progress" in series.nest("export", ok=False)


def test_export_does_not_overwrite_new_patches(series):
    series.change(5, "five", "KVM: arm64: Say five")
    patch = series.patches / "0001-KVM-arm64-Say-three.patch"
    patch.write_text(patch.read_text().replace("+three", "+drei"))
    before = series.snapshot()
    assert "Two lines of work" in series.nest("export", ok=False)
    assert "Two lines of work" in series.nest("tree", ok=False)
    assert series.snapshot() == before
    assert series.git("log", "-1", "--format=%s") == "KVM: arm64: Say five"


def test_changed_patches_refresh_a_clean_tree(series):
    patch = series.patches / "0001-KVM-arm64-Say-three.patch"
    patch.write_text(patch.read_text().replace("+three", "+drei"))
    series.nest("tree")
    assert "drei" in (series.tree / "arch/arm64/kvm/nested.c").read_text()


def test_patch_that_does_not_apply_is_named(series):
    patch = series.patches / "0002-KVM-arm64-Say-thirty.patch"
    patch.write_text(patch.read_text().replace("-line 30", "-line 31"))
    head = series.git("rev-parse", "HEAD")
    message = series.nest("tree", ok=False)
    assert "0002-KVM-arm64-Say-thirty.patch does not apply to Linux 6.12.117" in message
    assert "nested.c" in message and message.count("\n") == 1
    assert series.git("rev-parse", "HEAD") == head


def test_first_tree_that_failed_is_made_anew(series):
    """And so is one that was interrupted: build/linux is there when it is whole."""
    patch = series.patches / "0002-KVM-arm64-Say-thirty.patch"
    good = patch.read_text()
    patch.write_text(good.replace("-line 30", "-line 31"))
    subprocess.run(["rm", "-rf", series.tree], check=True)
    assert "does not apply" in series.nest("tree", ok=False)
    assert not series.tree.exists()
    patch.write_text(good)
    series.nest("tree")
    assert series.git("log", "-1", "--format=%s") == "KVM: arm64: Say [thirty]"


def test_base_that_the_series_does_not_apply_to_changes_nothing(series):
    before = series.git("rev-parse", "base", "HEAD")
    nested = series.linux / "arch/arm64/kvm/nested.c"
    old = nested.read_text()
    nested.write_text(old.replace("line 30", "another"))
    assert "does not apply" in series.nest("tree", ok=False)
    assert series.git("rev-parse", "base", "HEAD") == before
    nested.write_text(old)
    assert "unchanged" in series.nest("tree")


def test_work_on_another_base_than_the_one_asked_for(series):
    series.change(5, "five", "KVM: arm64: Say five")
    (series.linux / "README").write_text("another kernel\n")
    assert "1 unexported commit" in (message := series.nest("build", ok=False)) and "another kernel than LINUX=" in message
    assert series.git("log", "-1", "--format=%s") == "KVM: arm64: Say five"


def test_fuzz_is_refused(series):
    patch = series.patches / "0002-KVM-arm64-Say-thirty.patch"
    patch.write_text(patch.read_text().replace("\n line 28", "\n line xx"))
    assert "does not apply" in series.nest("tree", ok=False)


def test_broken_patch_file_is_named(series):
    (series.patches / "0002-KVM-arm64-Say-thirty.patch").write_text("not a patch\n")
    assert "is no patch by 'git format-patch'" in series.nest("tree", ok=False)


def test_base_of_the_wrong_version(work):
    work.version(13)
    message = work.nest("tree", ok=False)
    assert "is Linux 6.13.117: the series needs a 6.12.y" in message


def test_base_that_is_no_kernel(work):
    (work.linux / "Makefile").unlink()
    assert "no kernel source there" in work.nest("tree", ok=False)


@pytest.mark.parametrize("kind", ["tarball", "git"])
def test_other_kinds_of_base(work, tmp_path, kind):
    if kind == "tarball":
        tarball = tmp_path / "linux.tar.xz"
        subprocess.run(["tar", "-cJf", tarball, "-C", tmp_path, "linux-6.12"], check=True)
        work.env["LINUX"] = str(tarball)
    else:
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "kernel"]):
            subprocess.run(["git", *command], cwd=work.linux, env=work.env, check=True)
    assert f"LINUX= {kind}" in work.nest("tree")
    assert (work.tree / "arch/arm64/kvm/nested.c").exists()


def test_check_finds_unexported_and_accepts_exported(series):
    (series.tree / "scripts").mkdir()
    assert "2 patches as exported" in run_check(series)
    series.change(5, "five", "KVM: arm64: Say five")
    assert "unexported commit" in series.nest("check", ok=False)


def run_check(series):
    """`check` up to checkpatch, which this kernel does not have."""
    result = subprocess.run([sys.executable, "-m", "workbench", "check"], env=series.env, text=True,
                            capture_output=True, check=False)
    assert "Can't open perl script \"scripts/checkpatch.pl\"" in result.stderr
    assert re.search(r"applies: 2 patches, no fuzz", result.stdout)
    return result.stdout


def test_export_without_tree(work):
    assert "run './nest tree' first" in work.nest("export", ok=False)


def test_empty_series_is_not_exported(work):
    work.nest("tree")
    assert "nothing to export" in work.nest("export", ok=False)


def check_each(series):
    """(status, output) of what `check --each` does after the steps of `check`."""
    program = ("from workbench import kernel, ui\n"
               "with ui.Steps(1).step('each') as step: kernel.check_each(step)")
    result = subprocess.run([sys.executable, "-c", program], env=series.env, text=True, capture_output=True, check=False)
    return result.returncode, result.stdout + result.stderr


def test_each_patch_is_compiled(series):
    """Also those before the one that brings an option of config/series.config."""
    status, output = check_each(series)
    assert status and "lost CONFIG_OF_THE_SERIES=y" in output
    with (series.tree / "Kconfig").open("a") as file:
        file.write("CONFIG_OF_THE_SERIES=y\n")
    series.git("commit", "-q", "-a", "-m", "KVM: arm64: Add an option")
    status, output = check_each(series)
    assert status == 0 and "3 steps without a warning" in output


def test_warning_in_the_middle_is_found(series):
    series.change(5, "foo.c:5: warning: not used", "KVM: arm64: Use nothing")
    series.change(5, "five", "KVM: arm64: Say five")
    status, output = check_each(series)
    assert status and re.search(r"patch 3 \(\w{12}\) compiles with a warning: .*not used", output)


def test_merge_is_refused(series):
    series.git("checkout", "-q", "-b", "side", "HEAD^")
    series.change(10, "ten", "KVM: arm64: Say ten")
    series.git("checkout", "-q", "series")
    series.git("merge", "-q", "--no-ff", "-m", "merge", "side")
    assert "no straight series" in series.nest("export", ok=False)


def test_clean_keeps_unexported_work(series):
    series.change(5, "five")
    assert "uncommitted file" in series.nest("clean", "--all", ok=False)
    series.nest("clean")
    assert "five" in (series.tree / "arch/arm64/kvm/nested.c").read_text()


def test_clean_all_keeps_other_branches(series):
    series.git("branch", "idea")
    assert "idea" in series.nest("clean", "--all", ok=False)
    assert series.tree.exists()


@pytest.mark.parametrize("kind", ["tag", "ignored file"])
def test_clean_all_keeps_tags_and_ignored_files(kind, series):
    if kind == "tag":
        series.git("tag", "idea")
    else:
        (series.tree / ".git/info/exclude").write_text("*.patch\n.checkpatch*\n")
        (series.tree / ".checkpatch-camelcase.git.0").touch()
        (series.tree / "idea.patch").touch()
    message = series.nest("clean", "--all", ok=False)
    assert "idea" in message and "camelcase" not in message
    assert series.tree.exists()


def test_export_leaves_files_that_are_not_its_own(series):
    (series.patches / "wip.patch").write_text("mine\n")
    series.change(5, "five", "KVM: arm64: Say five")
    series.nest("export")
    assert (series.patches / "wip.patch").read_text() == "mine\n"
    assert (series.patches / "0003-KVM-arm64-Say-five.patch").exists()


def test_empty_commit_is_named(series):
    series.git("commit", "-q", "--allow-empty", "-m", "KVM: arm64: Say nothing")
    before = series.snapshot()
    assert "'KVM: arm64: Say nothing') changes nothing" in series.nest("export", ok=False)
    assert series.snapshot() == before


def test_tree_that_is_not_ours_is_refused(work):
    subprocess.run(["git", "init", "-q", work.tree], check=True)
    assert "no git tree made by './nest tree': move it away" in work.nest("tree", ok=False)


@pytest.mark.parametrize("arguments, told", [
    (["demo", "--json", "/tmp/x.json"], "argument --json: '/tmp/x.json': give a file in a folder of the repository"),
    (["demo", "--json", "no/such/x.json"], "argument --json: 'no/such/x.json': give a file in a folder of the repository"),
    (["bench", "--svg", "../x.svg"], "argument --svg: '../x.svg': give a file in a folder of the repository"),
    (["demo", "--vcpus", "0"], "argument --vcpus: '0': give a number from 1 to 8"),
    (["boot", "--bogus"], "unrecognized arguments: --bogus; see ./nest --help"),
])
def test_bad_arguments_are_one_line(arguments, told, work):
    message = work.nest(*arguments, ok=False)
    assert message.startswith(f"nest: {told}") and message.count("\n") == 1


def test_file_system_error_is_one_line(work):
    (work.root / "build").rmdir()
    (work.root / "build").touch()
    message = work.nest("tree", ok=False)
    assert message.startswith("nest: ") and "build" in message and message.count("\n") == 1


def test_repository_has_no_kernel_source():
    tracked = subprocess.run(["git", "-c", "safe.directory=*", "ls-files"], cwd=ROOT, text=True, check=True,
                             capture_output=True).stdout.split()
    assert [name for name in tracked if name.startswith(("arch/", "tools/", "build/"))] == []
