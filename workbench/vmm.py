"""Builds nestvm, our own VMM (vmm/), and fetches the arm64 packages that it needs."""

from . import base
from .paths import CACHE, LOG, ROOT
from .ui import run_into

SOURCES = ROOT / "vmm"
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static"]


# Programs of others that guests start: option of guest/guest -> package, its architecture, folder in it.
OTHERS = {"xen": ("xen-hypervisor-4.20-arm64", ":arm64", "boot"),
          "uboot": ("u-boot-qemu", "", "usr/lib/u-boot/qemu_arm64")}


def unpacked(package, architecture=":arm64"):
    """Folder of an unpacked package of Debian's; what the cache holds is kept.

    architecture: empty where a package is for all of them.
    """
    store = CACHE / "source"
    kept = sorted(store.glob(f"{package}_*.unpacked"))
    if kept:
        return kept[-1]
    version = base.newest(package + architecture)
    return base.unpack([package + architecture], version, store / f"{package}_{version}.unpacked")


def others(options):
    """(folder, name in the payload) of the programs of others that options of guest/guest ask for."""
    return [(unpacked(package, architecture) / folder, name)
            for name, (package, architecture, folder) in OTHERS.items() if f"--{name}" in options]


def build(out, cross):
    """Build nestvm into the folder `out`; nothing is done when nothing changed."""
    program = out / "nestvm"
    sources = sorted(SOURCES.glob("*.c"))
    newest = max(file.stat().st_mtime for file in SOURCES.iterdir())
    if program.exists() and program.stat().st_mtime > newest:
        return
    libfdt = unpacked("libfdt-dev") / "usr"
    library = next(libfdt.rglob("libfdt.a"))
    run_into([f"{cross}gcc", *FLAGS, f"-I{libfdt / 'include'}", *map(str, sources), str(library)], program,
             LOG / "nestvm.log")
