"""The series: patches/ to a git tree and back, and its checks."""

import hashlib
import os
import re
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path

from . import base as bases
from .paths import BUILD, LOG, PATCHES, TREE
from .ui import Fail, git, need_disk, run, uninterrupted

BRANCH = "series"
COVER = PATCHES / "cover-letter.md"

# checkpatch: what a series that is not a kernel tree's own cannot satisfy.
CHECKPATCH = ["--strict", "--quiet", "--no-summary", "--show-types", "--ignore",
              # New files lie under directories that MAINTAINERS already covers; fields of
              # system registers have the architecture's names, from the generated headers;
              # a system register is a constant in an accessor and cannot be copied first.
              "FILE_PATH_CHANGES,CAMELCASE,MACRO_ARG_REUSE"]
# More of them, for patches that touch a file.
CHECKPATCH_OF = {
    # TRACE_EVENT() and lists of its symbols have a layout of their own, as in the whole file.
    "arch/arm64/kvm/trace_arm.h": "OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT,COMPLEX_MACRO",
    # Operands of inline assembly; tools/ gives the attributes' short names another meaning.
    "tools/testing/selftests/kvm/aarch64/nv_insn.h": "BRACKET_SPACE,PREFER_DEFINED_ATTRIBUTE_MACRO",
    # Macros that are rows of tables.
    "tools/testing/selftests/kvm/aarch64/nv_traps.c": "BRACKET_SPACE,COMPLEX_MACRO",
}

# head: what build/linux has checked out.  recorded: tip at the last apply or export.
State = namedtuple("State", "head recorded base digest dirty ahead busy")


def exported(folder=PATCHES):
    """The files in patches/ that `export` writes, but for its README."""
    return sorted(folder.glob("[0-9][0-9][0-9][0-9]-*.patch"))


def patch_files(folder=PATCHES):
    """The patches in order, without the cover letter."""
    return [patch for patch in exported(folder) if not patch.name.startswith("0000")]


def digest(folder=PATCHES):
    """A name for the content of patches/."""
    total = hashlib.sha256()
    for patch in patch_files(folder):
        total.update(patch.name.encode() + b"\0" + patch.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def tree(*args, **options):
    return git(*args, cwd=TREE, **options)


def recall(key):
    return tree("config", "--default", "", f"nest.{key}").strip()


def remember(cwd, **values):
    for key, value in values.items():
        git("config", f"nest.{key}", value, cwd=cwd)


def state():
    """What build/linux is now, or None where there is none."""
    if not TREE.exists() or not any(TREE.iterdir()):
        return None
    recorded = recall("head") if (TREE / ".git").is_dir() else ""
    if not recorded:
        raise Fail("build/linux is no git tree made by './nest tree': move it away")
    dirty = [line[3:] for line in tree("status", "--porcelain", "--untracked-files=all").splitlines()]
    ahead = tree("log", "--format=%h %s", f"{recorded}..HEAD").splitlines()
    head = tree("rev-parse", "HEAD").strip()
    if head != recorded and not ahead:
        ahead = [f"{head[:9]} (rewound or rewritten)"]
    # Elsewhere, as in a detached HEAD, the branch may hold more.
    for tip in tree("for-each-ref", "--format=%(objectname)", f"refs/heads/{BRANCH}").split():
        ahead += [f"{commit} on branch {BRANCH}, which is not checked out" for commit in
                  tree("log", "--format=%h %s", tip, "--not", recorded, "HEAD").splitlines()]
    busy = [name for name in ("rebase-merge", "rebase-apply", "MERGE_HEAD", "CHERRY_PICK_HEAD")
            if (TREE / ".git" / name).exists()]
    return State(head, recorded, recall("base"), recall("patches"), dirty, ahead, busy)


def named(things, what):
    more = f" and {len(things) - 3} more" if len(things) > 3 else ""
    return f"{len(things)} {what}{'s' if len(things) > 1 else ''} ({', '.join(things[:3])}{more})"


def unexported(now):
    """The work in build/linux that patches/ does not hold, in words; empty if none."""
    found = [f"a {now.busy[0]} in progress"] if now.busy else []
    if now.dirty:
        found.append(named(now.dirty, "uncommitted file"))
    if now.ahead:
        found.append(named(now.ahead, "unexported commit"))
    return " and ".join(found)


def touched(patches):
    """Names of the files that patches touch."""
    return sorted({name for patch in patches
                   for name in re.findall(r"^(?:---|\+\+\+) [ab]/(.+)$", patch.read_text(), re.M)})


class Files:
    """The files that the patches touch, in an index of their own: small, so that each patch takes no time."""

    def __init__(self, work, start, patches, cwd):
        self.cwd, self.env = cwd, {"GIT_INDEX_FILE": str(Path(work) / "index")}
        entries = git("ls-tree", "-r", start, "--", *touched(patches), cwd=cwd)
        git("update-index", "--index-info", cwd=cwd, env=self.env, stdin=entries)
        self.before = self.listed()

    def listed(self):
        """name -> (mode, blob)."""
        lines = git("ls-files", "--stage", cwd=self.cwd, env=self.env).splitlines()
        return {name: tuple(head.split()[:2]) for head, name in (line.split("\t", 1) for line in lines)}

    def apply(self, diff):
        """Apply a diff with no fuzz; returns the changes for git fast-import."""
        git("apply", "--cached", "--whitespace=nowarn", str(diff), cwd=self.cwd, env=self.env)
        before, self.before = self.before, self.listed()
        gone = [f"D {name}\n" for name in before if name not in self.before]
        return "".join(gone + [f"M {mode} {blob} {name}\n" for name, (mode, blob) in self.before.items()
                               if before.get(name) != (mode, blob)])


def commit_of(patch, files, work, what):
    """A patch as (header with author, message, changes) of a commit for git fast-import."""
    text, diff = Path(work) / "message", Path(work) / "diff"
    headers = git("mailinfo", "-b", str(text), str(diff), cwd=files.cwd, stdin=patch.read_text())
    field = dict(re.findall(r"^(Author|Email|Subject|Date): (.*)$", headers, re.M))
    if len(field) != 4 or not diff.stat().st_size:
        raise Fail(f"patches/{patch.name} is no patch by 'git format-patch': restore it with "
                   f"'git checkout patches/{patch.name}'")
    try:
        changes = files.apply(diff)
    except Fail as error:
        raise Fail(f"patches/{patch.name} does not apply to {what}: {str(error).split('error: ')[-1]}") from None
    who = f"{field['Author']} <{field['Email']}> {field['Date']}"
    message = f"{field['Subject']}\n\n{text.read_text().strip()}\n"
    return f"author {who}\ncommitter {who}\n", message, changes


def apply_all(start, cwd, what, folder=PATCHES, step=None):
    """Apply the series on commit `start` without a working tree; returns the commits."""
    patches = patch_files(folder)
    if not patches:
        return []
    parent, stream = start, []
    with tempfile.TemporaryDirectory() as work:
        files = Files(work, start, patches, cwd)
        for number, patch in enumerate(patches, 1):
            if step:
                step.progress(f"patch {number} of {len(patches)}")
            header, message, changes = commit_of(patch, files, work, what)
            stream.append(f"commit refs/nest/applied\nmark :{number}\n{header}data {len(message.encode())}\n{message}"
                          f"from {parent}\n{changes}\n")
            parent = f":{number}"
        marks = Path(work) / "marks"
        git("fast-import", "--quiet", "--force", "--date-format=rfc2822", f"--export-marks={marks}", cwd=cwd,
            stdin="".join(stream))
        git("update-ref", "-d", "refs/nest/applied", cwd=cwd)
        made = dict(line.split() for line in marks.read_text().splitlines())
    return [made[f":{number}"] for number in range(1, len(patches) + 1)]


def make_tree(step, strict):
    """Make or refresh build/linux; never touches work that patches/ does not hold.

    strict: refuse any such work (`./nest tree`); otherwise it is used as it
    stands, as long as neither patches/ nor the base moved under it.
    """
    now = state()
    here = digest()
    work = unexported(now) if now else ""
    if work and (strict or now.digest != here):
        moved = "" if now.digest == here else "; patches/ changed meanwhile, see CONTRIBUTING.md, 'Two lines of work'"
        raise Fail(f"build/linux has work that patches/ does not hold: {work}: commit it there and run "
                   f"'./nest export'{moved}")
    if work:
        if os.environ.get("LINUX") and now.base != bases.commit_of(bases.resolve(step)):
            raise Fail(f"build/linux has work that patches/ does not hold: {work}, on another kernel than LINUX=: "
                       "run './nest export' first, or leave LINUX= out")
        step.done(f"build/linux as it stands, with {work}")
        return
    base = bases.resolve(step)
    start = bases.commit_of(base)
    if now and (now.digest, now.base) == (here, start):
        step.done(f"{len(patch_files())} patches on Linux {base.version}, unchanged")
        return
    need_disk(1 if now else 12, "a kernel tree and its build")
    folder = TREE if now else new_tree(base)
    git("fetch", "-q", "--no-tags", str(base.repo), "base", cwd=folder)
    commits = [start] + apply_all(start, folder, f"Linux {base.version} ({base.origin})", step=step)
    with uninterrupted():
        git("tag", "-f", "base", start, cwd=folder)
        git("checkout", "-q", "-B", BRANCH, commits[-1], cwd=folder)
        remember(folder, head=commits[-1], base=start, patches=here)
        if folder != TREE:
            if TREE.exists():
                TREE.rmdir()
            folder.rename(TREE)
    step.done(f"{len(commits) - 1} patches on Linux {base.version} ({base.origin})")


def new_tree(base):
    """A git tree with the base's objects beside build/linux, where it is moved when it is whole."""
    work = TREE.with_suffix(".tmp")
    shutil.rmtree(work, ignore_errors=True)
    git("clone", "-q", "--no-checkout", "--branch", "base", str(base.repo), str(work), cwd=BUILD)
    git("remote", "remove", "origin", cwd=work)
    # The base is a tag, not a branch of the same name.
    git("symbolic-ref", "HEAD", f"refs/heads/{BRANCH}", cwd=work)
    git("branch", "-q", "-D", "base", cwd=work)
    for key, name in (("user.name", "GIT_NAME"), ("user.email", "GIT_EMAIL")):
        if os.environ.get(name):
            git("config", key, os.environ[name], cwd=work)
    return work


# What checkpatch and the selftests' build leave in a kernel tree.
MADE = (".checkpatch-camelcase.", "tools/arch/arm64/include/generated/")


def further_work():
    """What only build/linux has beside its series: other branches, a stash, tags, and files that git ignores."""
    refs = tree("for-each-ref", "--format=%(refname:lstrip=1)", "refs/heads", "refs/stash", "refs/tags").split()
    ignored = [line[3:] for line in tree("status", "--porcelain", "--ignored").splitlines() if line.startswith("!! ")]
    return [ref for ref in refs if ref not in (f"heads/{BRANCH}", "tags/base")] + [
        name for name in ignored if not name.startswith(MADE)]


def series_commits(now):
    """The commits of build/linux in order; refuses what is no plain series on the base."""
    line = tree("rev-list", "--reverse", "--parents", f"{now.base}..{now.head}").splitlines()
    parent = now.base
    for entry in line:
        commit, *parents = entry.split()
        if parents != [parent]:
            raise Fail(f"build/linux is no straight series on its base (see {commit[:12]}): rebase it onto tag 'base'")
        parent = commit
    return [entry.split()[0] for entry in line]


def format_series(now, folder):
    """Write the series of build/linux into `folder`, byte-stable."""
    commits = series_commits(now)
    if not commits:
        raise Fail("build/linux has no patch on its base: nothing to export")
    # The author's date survives a round trip through the patches, the committer's does not.
    date = tree("log", "-1", "--format=%aI", now.head).strip()
    who = {"GIT_COMMITTER_NAME": os.environ.get("GIT_NAME") or "The series",
           "GIT_COMMITTER_EMAIL": os.environ.get("GIT_EMAIL") or "series@localhost",
           "GIT_COMMITTER_DATE": date}
    tree("-c", "diff.algorithm=myers", "format-patch", "-q", "-o", str(folder), "--zero-commit", "--no-signature",
         "--full-index", "--no-renames", "--numbered", "--cover-letter", "--cover-from-description=subject",
         f"--description-file={COVER}", f"{now.base}..{now.head}", env=who)
    cover = folder / "0000-cover-letter.patch"
    # git counts the shortlog's author per run; the letter's own author is the newest patch's.
    author = tree("log", "-1", "--format=%an <%ae>", now.head).strip()
    cover.write_text(re.sub(r"^From: .*(\n .*)*$", f"From: {author}", cover.read_text(), count=1, flags=re.M))
    (folder / "README.md").write_text(overview(now, commits))


AREAS = (("cpufeature", "arch/arm64/kernel/"), ("sysreg", "arch/arm64/tools/"), ("vgic", "arch/arm64/kvm/vgic"),
         ("hyp", "arch/arm64/kvm/hyp/"), ("KVM", "arch/arm64/kvm/"), ("headers", "arch/arm64/include/"),
         ("selftests", "tools/testing/"), ("docs", "Documentation/"), ("headers", "include/"))


def area_of(files):
    """The area of most of a patch's changed lines."""
    votes = {}
    for added, removed, name in files:
        area = next((area for area, prefix in AREAS if name.startswith(prefix)), "other")
        votes[area] = votes.get(area, 0) + added + removed
    return max(votes, key=votes.get)


def overview(now, commits):
    """patches/README.md: the series at a glance."""
    rows, total = [], [0, 0]
    for number, commit in enumerate(commits, 1):
        subject = tree("log", "-1", "--format=%s", commit).strip().replace("|", "\\|")
        stat = [line.split("\t") for line in
                tree("diff-tree", "-r", "--numstat", "--no-renames", f"{commit}^", commit).splitlines()]
        if not stat:
            raise Fail(f"commit {commit[:12]} of build/linux ('{subject}') changes nothing, which no patch can hold: drop it "
                       "with 'git rebase --empty=drop --no-keep-empty base'")
        files = [(int(a) if a != "-" else 0, int(r) if r != "-" else 0, name) for a, r, name in stat]
        added, removed = sum(f[0] for f in files), sum(f[1] for f in files)
        total = [total[0] + added, total[1] + removed]
        names = ", ".join(f"`{re.sub('^arch/arm64/', '', name)}`" for _, _, name in files)
        rows.append(f"| {number:04} | {subject} | {area_of(files)} | {names} | {added} | {removed} |")
    version = tree("show", f"{now.base}:Makefile")[:200]
    version = ".".join(re.findall(r"^(?:VERSION|PATCHLEVEL|SUBLEVEL) = (\d+)", version, re.M))
    return "\n".join([
        "# The series at a glance", "",
        "Written by `./nest export` from the git tree `build/linux`; never edit a patch by hand.", "",
        f"{len(commits)} patches on Linux {version}, {total[0]} lines added, {total[1]} removed. "
        "Files without a leading directory lie in arch/arm64/.", "",
        "| patch | subject | area | files | + | - |", "|---|---|---|---|--:|--:|", *rows]) + "\n"


def same(one, two):
    """Whether two folders hold the same patches and README."""
    names = {p.name for folder in (one, two) for p in exported(folder)} | {"README.md"}
    return all((one / n).exists() and (two / n).exists() and (one / n).read_bytes() == (two / n).read_bytes()
               for n in names)


def export(step):
    """Write build/linux back into patches/."""
    now = state()
    if now is None:
        raise Fail("there is no build/linux to export: run './nest tree' first")
    if now.busy or now.dirty:
        raise Fail(f"build/linux has {unexported(now._replace(ahead=[]))}: commit (or stash) it there first, "
                   "only commits are exported")
    if now.digest != digest():
        raise Fail("patches/ is not what build/linux was made from (edited or pulled meanwhile), exporting would "
                   "discard that: see CONTRIBUTING.md, 'Two lines of work'")
    with tempfile.TemporaryDirectory(dir=BUILD) as work:
        folder = Path(work)
        format_series(now, folder)
        changed = not same(folder, PATCHES)
        with uninterrupted():
            if changed:
                for old in exported():
                    if not (folder / old.name).exists():
                        old.unlink()
                for new in sorted(folder.iterdir()):
                    shutil.copy(new, PATCHES / new.name)
            remember(TREE, head=now.head, patches=digest())
    count = len(patch_files())
    step.done(f"{count} patches {'written' if changed else 'unchanged'}")


def check_exported(step):
    now = state()
    if unexported(now):
        raise Fail(f"build/linux has {unexported(now)}: run './nest export'")
    with tempfile.TemporaryDirectory(dir=BUILD) as work:
        format_series(now, Path(work))
        if not same(Path(work), PATCHES):
            raise Fail("patches/ is not what build/linux exports: run './nest export'")
    step.done(f"{len(patch_files())} patches as exported")


def check_applies(step, base):
    commits = apply_all(bases.commit_of(base), base.repo, base.origin, step=step)
    step.done(f"{len(commits)} patches, no fuzz, on {base.origin}")


def check_style(step):
    patches = patch_files()
    for number, patch in enumerate(patches, 1):
        step.progress(f"{number} of {len(patches)}")
        text = patch.read_text()
        more = [types for file, types in CHECKPATCH_OF.items() if f"\n+++ b/{file}\n" in text]
        run(["perl", "scripts/checkpatch.pl", *CHECKPATCH[:-1], ",".join(CHECKPATCH[-1:] + more), str(patch)],
            cwd=TREE, log=LOG / "checkpatch.log")
    step.done(f"{len(patches)} patches clean")
