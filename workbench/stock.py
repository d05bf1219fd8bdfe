"""Other kernels as guests: an Image, and an initramfs with the modules for our root image.

They are Debian's stock kernels, and ours in other flavours than the host's.
"""

import lzma
import re
import shutil
from collections import namedtuple

from . import base, images, kernel
from .paths import BUILD, CACHE
from .ui import run

# package: Debian's metapackage.  series: what the version starts with, or "" for the newest.
Stock = namedtuple("Stock", "package series")
KERNELS = {
    "debian-6.12": Stock("linux-image-cloud-arm64", "6.12."),
    "debian-newest": Stock("linux-image-cloud-arm64", ""),
    "debian-16k": Stock("linux-image-arm64-16k", ""),
}
OURS = {"ours-64k": "64k"}
# What a guest of guest/guest needs to see its disks and read the root image.
MODULES = ("virtio_mmio", "virtio_blk", "virtio_console", "erofs")


def unpacked(stock, step):
    """Folder of a stock kernel's unpacked packages, kept in the cache."""
    version = base.newest(f"{stock.package}:arm64", stock.series)
    about = run(["apt-cache", "show", f"{stock.package}:arm64={version}"])
    release = re.search(r"^Depends:.*\blinux-image-(\d\S+)", about, re.M)[1]
    folder = CACHE / "source" / f"stock-{release}"
    if folder.exists():
        return folder
    step.progress(f"downloading Linux {release}")
    listed = run(["apt-cache", "pkgnames", "linux-"]).splitlines()
    # Debian splits newer kernels into Image and modules, and linux-image only depends on them.
    parts = [f"linux-{part}-{release}" for part in ("image", "binary", "modules")]
    there = [f"{part}:arm64" for part in parts if part in listed or f"{part}:arm64" in listed]
    return base.unpack(there, version, folder,
                       then=lambda work: run(["depmod", "-b", str(work / "usr"), release]))


def modules(folder):
    """Paths of the modules to load, in order."""
    table = next(folder.glob("usr/lib/modules/*/modules.dep"))
    needs = {}
    for line in table.read_text().splitlines():
        path, rest = line.split(":")
        needs[re.sub(r"\.ko.*", "", path.rsplit("/", 1)[1]).replace("-", "_")] = [path] + rest.split()
    order = []
    for name in MODULES:    # what is not there is built in
        for path in reversed(needs.get(name, [])):
            if path not in order:
                order.append(path)
    return [table.parent / path for path in order]


def wanted(options, step):
    """(folder, name in the payload) of the stock kernels that options of guest/guest ask for."""
    names = sorted(set(re.findall(r"--stock (\S+?)(?=['\s]|$)", options)))
    return [(make(name, step), f"stock/{name}") for name in names]


def make(name, step):
    """A folder with the Image and the initramfs.gz of a kernel."""
    out = BUILD / "stock" / name
    if name in OURS:
        image, files = kernel.build(OURS[name], step), {}
    else:
        image, files = debian(name, step)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copy(image, out / "Image")
    images.initramfs(out / "initramfs.gz", files)
    return out


def debian(name, step):
    """Image, and modules by their name in the initramfs, of Debian's newest version of a stock kernel."""
    folder = unpacked(KERNELS[name], step)
    files = {f"modules/{number:02}-{path.name.removesuffix('.xz')}": lzma.decompress(path.read_bytes())
             for number, path in enumerate(modules(folder))}
    step.done(folder.name.removeprefix("stock-"))
    return next(path for path in sorted(folder.rglob("vmlinuz*")) if path.is_file()), files
