"""Builds nestvm, our own VMM (vmm/), and fetches the arm64 packages that it needs."""

from . import base
from .paths import CACHE, LOG, ROOT
from .ui import run

SOURCES = ROOT / "vmm"
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static"]


def unpacked(package):
    """Folder of an unpacked arm64 package of Debian's; what the cache holds is kept."""
    store = CACHE / "source"
    kept = sorted(store.glob(f"{package}_*.unpacked"))
    if kept:
        return kept[-1]
    version = base.newest(package)
    return base.unpack([package], version, store / f"{package}_{version}.unpacked")


def xen():
    """Folder with Debian's Xen."""
    return unpacked("xen-hypervisor-4.20-arm64") / "boot"


def build(out, cross):
    """Build nestvm into the folder `out`; nothing is done when nothing changed."""
    program = out / "nestvm"
    sources = sorted(SOURCES.glob("*.c"))
    newest = max(file.stat().st_mtime for file in SOURCES.iterdir())
    if program.exists() and program.stat().st_mtime > newest:
        return
    libfdt = unpacked("libfdt-dev") / "usr"
    library = next(libfdt.rglob("libfdt.a"))
    run([f"{cross}gcc", *FLAGS, f"-I{libfdt / 'include'}", "-o", str(program), *map(str, sources), str(library)],
        log=LOG / "nestvm.log")
