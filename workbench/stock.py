"""Other kernels as guests: an Image, and an initramfs with the modules for our root image.

They are Debian's stock kernels, and ours in other flavours than the host's.
"""

import lzma
import re
import shutil
from collections import namedtuple

from . import base, images, kernel
from .paths import BUILD, CACHE
from .ui import Fail, need_disk, run

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


def release_of(stock):
    """(package version, kernel release) that the metapackage stands for now."""
    versions = [v for v in base.versions_of(f"{stock.package}:arm64") if v.startswith(stock.series)]
    if not versions:
        raise Fail(f"Debian's mirror has no {stock.package} {stock.series}")
    newest = max(versions, key=base.version_key)
    about = run(["apt-cache", "show", f"{stock.package}:arm64={newest}"])
    return newest, re.search(r"^Depends:.*\blinux-image-(\d\S+)", about, re.M)[1]


def unpacked(stock, step):
    """Folder of a stock kernel's unpacked packages, kept in the cache."""
    store = CACHE / "source"
    version, release = release_of(stock)
    folder = store / f"stock-{release}"
    if folder.exists():
        return folder
    need_disk(2, "unpacking a stock kernel", CACHE)
    work = store / "stock.tmp"
    shutil.rmtree(work, ignore_errors=True)
    listed = run(["apt-cache", "pkgnames", "linux-"]).splitlines()
    # Debian splits newer kernels into Image and modules, and linux-image only depends on them.
    for part in ("image", "binary", "modules"):
        if f"linux-{part}-{release}" in listed or f"linux-{part}-{release}:arm64" in listed:
            step.progress(f"downloading linux-{part}-{release}")
            run(["dpkg-deb", "-x", str(base.download(f"linux-{part}-{release}:arm64", version, store)), str(work)])
    run(["depmod", "-b", str(work / "usr"), release])
    work.rename(folder)
    return folder


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
    if not any(base.versions_of(f"{KERNELS[name].package}:arm64")):
        base.apt_update()
    folder = unpacked(KERNELS[name], step)
    files = {f"modules/{number:02}-{path.name.removesuffix('.xz')}": lzma.decompress(path.read_bytes())
             for number, path in enumerate(modules(folder))}
    step.done(folder.name.removeprefix("stock-"))
    return next(path for path in sorted(folder.rglob("vmlinuz*")) if path.is_file()), files
