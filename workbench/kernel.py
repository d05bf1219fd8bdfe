"""Kernels and guest programs, cross-built from configuration fragments."""

import hashlib
import os
import re
import shutil
from pathlib import Path

from . import vmm
from .paths import BUILD, CONFIG, GUEST, LOG, SOURCE, TREE
from .series import tree
from .ui import Fail, git, need_disk, run, run_into

PROGRAMS = BUILD / "programs"       # guest/*.c, static
CROSS = "aarch64-linux-gnu-"
MAKE = ["make", f"-j{os.cpu_count()}", "ARCH=arm64", f"CROSS_COMPILE={CROSS}",
        f"CC=ccache {CROSS}gcc", "HOSTCC=ccache gcc", "KBUILD_BUILD_TIMESTAMP=@0",
        "LOCALVERSION=", "KBUILD_BUILD_USER=nest", "KBUILD_BUILD_HOST=nest"]

# Configuration fragments of each kernel, the later ones over the earlier.
FLAVOURS = {
    "small": ("small", "series"),
    "debug": ("small", "series", "debug"),
    "64k": ("small", "series", "64k"),
}


def out_of(flavour):
    """Build folder of a kernel: flavour, or `base-`flavour for the unpatched one."""
    return BUILD / "kernel" / flavour


def image_of(flavour):
    return out_of(flavour) / "arch/arm64/boot/Image"


def fragments(flavour):
    names = FLAVOURS[flavour.removeprefix("base-")]
    return [CONFIG / f"{name}.config" for name in names if name != "series" or not flavour.startswith("base-")]


def source_tree(flavour, step):
    """The tree a kernel is built from; the unpatched one has a tree of its own."""
    if not flavour.startswith("base-"):
        return TREE
    folder, work = BUILD / "base", BUILD / "base.tmp"
    wanted = tree("rev-parse", "base^{commit}").strip()
    if folder.exists():
        if git("rev-parse", "HEAD", cwd=folder).strip() != wanted:
            git("fetch", "-q", str(TREE), wanted, cwd=folder)
            git("checkout", "-q", "-f", "--detach", wanted, cwd=folder)
        return folder
    step.progress("checking out the unpatched kernel")
    shutil.rmtree(work, ignore_errors=True)
    git("clone", "-q", "--shared", "--no-checkout", str(TREE), str(work), cwd=BUILD)
    git("checkout", "-q", "--detach", wanted, cwd=work)
    work.rename(folder)
    return folder


def source_key(folder):
    """A name for a tree's content, uncommitted changes included."""
    total = hashlib.sha256(git("rev-parse", "HEAD^{tree}", cwd=folder).encode())
    total.update(git("diff", "HEAD", cwd=folder).encode())
    for name in git("ls-files", "--others", "--exclude-standard", cwd=folder).splitlines():
        total.update(name.encode() + (folder / name).read_bytes())
    return total.hexdigest()


def make_key(source, *files):
    total = hashlib.sha256(source.encode() + os.environ.get("NEST_TOOLBOX", "").encode())
    for file in files:
        total.update(Path(file).read_bytes())
    return total.hexdigest()


def at_source(folder, command):
    """A command that sees `folder` at /src, whatever its own path: ccache then
    finds the same objects for every tree and clone."""
    return ["unshare", "--mount", "--propagation", "unchanged", "sh", "-euc", f'mount --bind "$0" {SOURCE}; cd {SOURCE}; exec "$@"',
            str(folder), *command]


def configure(flavour, folder, out, whole=True):
    """Make the .config in `out` from the fragments; every line of theirs must have taken, if the series is whole."""
    out.mkdir(parents=True, exist_ok=True)
    wanted = {}
    for fragment in fragments(flavour):
        for line in fragment.read_text().splitlines():
            match = re.match(r"(?:# )?(CONFIG_\w+)(?:=| is not set)", line)
            if match:
                wanted[match[1]] = line
    merged = out / "fragments.config"
    merged.write_text("\n".join(wanted.values()) + "\n")
    run(at_source(folder, [*MAKE, f"O={out}", f"KCONFIG_ALLCONFIG={merged}", "allnoconfig"]),
        log=LOG / f"config-{flavour}.log")
    have = set((out / ".config").read_text().splitlines())
    unset = {f"# {name} is not set" for name in wanted} - have
    missing = [line for name, line in wanted.items()
               if line not in have and not (line.endswith("is not set") and f"# {name} is not set" not in unset)]
    if missing and whole:
        raise Fail(f"the configuration of '{flavour}' lost {', '.join(missing[:5])}: a dependency is missing "
                   f"in config/{flavour.removeprefix('base-')}.config")


def expected_objects(flavour):
    """How many objects a build from nothing makes, as the flavour's fragment says."""
    text = (CONFIG / f"{flavour.removeprefix('base-')}.config").read_text()
    return int(re.search(r"^# objects: (\d+)", text, re.M)[1])


def warning_in(line):
    """The compiler's warning in a line of make's output: of none or one."""
    return [line.strip()] if ": warning: " in line else []


def build(flavour, step):
    """Build a kernel Image; returns its path.  Nothing is done when nothing changed."""
    folder = source_tree(flavour, step)
    key = make_key(source_key(folder), *fragments(flavour))
    stamp = out_of(flavour) / "nest.stamp"
    if stamp.exists() and stamp.read_text() == key and image_of(flavour).exists():
        step.done("unchanged")
        return image_of(flavour)
    stamp.unlink(missing_ok=True)
    need_disk(4, "building a kernel")
    configure(flavour, folder, out_of(flavour))
    expected, made, warnings = expected_objects(flavour), 0, []

    def count(line):
        nonlocal made
        if re.match(r"  (CC|AS|HYPCOPY|LD|AR) ", line):
            made += 1
            step.progress(f"{made} of about {max(expected, made)} objects")
        warnings.extend(warning_in(line))

    run(at_source(folder, [*MAKE, f"O={out_of(flavour)}", "Image"]), log=LOG / f"kernel-{flavour}.log", on_line=count)
    if warnings and not flavour.startswith("base-"):
        raise Fail(f"the {flavour} kernel compiles with a warning: {warnings[0]}")
    stamp.write_text(key)
    step.done(f"{made} objects built")
    return image_of(flavour)


def compile_selftests(folder, out, log, on_line=None):
    """Compile the KVM selftests of a tree into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    run(at_source(folder, [*MAKE, f"O={out}/headers", "headers_install"]), log=LOG / f"headers-{out.name}.log")
    run(at_source(folder, ["make", f"-j{os.cpu_count()}", "-C", "tools/testing/selftests/kvm", "ARCH=arm64",
                           f"CROSS_COMPILE={CROSS}", f"CC=ccache {CROSS}gcc", f"OUTPUT={out}",
                           f"KHDR_INCLUDES=-isystem {out}/headers/usr/include"]), log=log, on_line=on_line)


def selftests(flavour, step):
    """Build the KVM selftests against a kernel's headers; returns their folder."""
    folder = source_tree(flavour, step)
    out = BUILD / "selftests" / flavour
    key = make_key(source_key(folder), *fragments(flavour))
    stamp = out / "nest.stamp"
    if stamp.exists() and stamp.read_text() == key:
        step.done("unchanged")
        return out
    stamp.unlink(missing_ok=True)
    made = 0

    def count(_):
        nonlocal made
        made += 1
        step.progress(f"{made} commands")

    compile_selftests(folder, out, LOG / f"selftests-{flavour}.log", count)
    stamp.write_text(key)
    step.done("built")
    return out


def programs(step):
    """Build our own guest programs (guest/*.c, and nestvm), static; returns their folder."""
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    sources, headers = sorted(GUEST.glob("*.c")), max(header.stat().st_mtime for header in GUEST.glob("*.h"))
    for source in sources:
        program = PROGRAMS / source.stem
        if not program.exists() or program.stat().st_mtime < max(source.stat().st_mtime, headers):
            run_into([f"{CROSS}gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", str(source)], program,
                     LOG / f"{source.stem}.log")
    vmm.build(PROGRAMS, CROSS)
    step.done(f"{len(sources) + 1} programs")
    return PROGRAMS


def steps_of(names):
    """What files of a patch can change: of "config", "kernel" and "selftests"."""
    found = {"config"} if any(Path(name).name.startswith("Kconfig") for name in names) else set()
    if any(not name.startswith(("Documentation/", "tools/")) for name in names):
        found.add("kernel")
    if any(name.startswith(("tools/", "include/uapi/", "arch/arm64/include/uapi/")) for name in names):
        found.add("selftests")
    return found


def check_each(step):
    """Compile arch/arm64/kvm and the selftests after each patch that can change them, without a warning."""
    start, head = (tree("rev-parse", name).strip() for name in ("base^{commit}", "HEAD"))
    commits = tree("rev-list", "--reverse", f"{start}..{head}").split()
    folder = BUILD / "each"
    shutil.rmtree(folder, ignore_errors=True)
    git("clone", "-q", "--shared", "--no-checkout", str(TREE), str(folder / "linux"), cwd=BUILD)
    warnings = []

    def look(line):
        warnings.extend(warning_in(line))

    for number, commit in enumerate(commits, 1):
        step.progress(f"patch {number} of {len(commits)}")
        git("checkout", "-q", "--detach", commit, cwd=folder / "linux")
        todo = steps_of(tree("diff-tree", "-r", "--name-only", f"{commit}^", commit).splitlines())
        if "config" in todo or commit in (commits[0], head):
            configure("small", folder / "linux", folder / "kernel", whole=commit == head)
        if "kernel" in todo:
            run(at_source(folder / "linux", [*MAKE, f"O={folder}/kernel", "arch/arm64/kvm/", "arch/arm64/kernel/"]),
                log=LOG / "each.log", on_line=look)
        if "selftests" in todo:
            compile_selftests(folder / "linux", folder / "selftests", LOG / "each.log", look)
        if warnings:
            raise Fail(f"patch {number} ({commit[:12]}) compiles with a warning: {warnings[0]}")
    shutil.rmtree(folder)
    step.done(f"{len(commits)} steps without a warning")
