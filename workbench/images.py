"""Disk images of the guests: the root image, the payload and the innermost initramfs."""

import gzip
import os
import re
import shutil
import tarfile
from io import BytesIO

from .kernel import PROGRAMS, make_key
from .paths import BUILD, GUEST, LOG, USERLAND
from .ui import run

IMAGES = BUILD / "images"

# What no guest reads; leaving it out makes the image a third of its size.
UNUSED = re.compile(r"\./usr/share/(doc|man|locale|info|lintian|bash-completion|qemu/(?!keymaps|linuxboot)|seabios)/"
                    r"|\./usr/bin/qemu-(system-arm|system-armel|system-armhf|pr-helper|ga)$"
                    r"|\./var/|\./usr/lib/aarch64-linux-gnu/perl|\./usr/include/")


def entry(name, kind, mode, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.size = kind, mode, link, size
    return info


def rootfs(step):
    """The read-only arm64 root that host and guest hypervisors share (erofs, /dev/vda)."""
    image, stamp = IMAGES / "root.erofs", IMAGES / "root.stamp"
    key = make_key(USERLAND.name, GUEST / "rc")
    if image.exists() and stamp.exists() and stamp.read_text().split()[0] == key:
        step.done("unchanged")
        return image
    IMAGES.mkdir(parents=True, exist_ok=True)
    work = IMAGES / "root.tmp.tar"
    with tarfile.open(USERLAND) as full, tarfile.open(work, "w") as slim:
        for member in full:
            if member.name == "./usr/bin/qemu-system-aarch64":
                version = re.search(rb"QEMU emulator version (\d[\d.]*)", full.extractfile(member).read())[1].decode()
            if not UNUSED.match(member.name) and not member.isdev():
                slim.addfile(member, full.extractfile(member) if member.isreg() else None)
        for folder in ("nest", "var", "share"):
            slim.addfile(entry(f"./{folder}", tarfile.DIRTYPE, 0o755))
        rc = (GUEST / "rc").read_bytes()
        slim.addfile(entry("./init", tarfile.REGTYPE, 0o755, size=len(rc)), BytesIO(rc))
        slim.addfile(entry("./usr/bin/sh", tarfile.SYMTYPE, 0o777, link="busybox"))
    make_erofs(image, "--tar=f", str(work))
    work.unlink()
    stamp.write_text(f"{key} {version}")
    step.done(f"{image.stat().st_size >> 20} MiB")
    return image


def vmm_version():
    """Version of the QEMU in the root image."""
    return (IMAGES / "root.stamp").read_text().split()[1]


def make_erofs(image, *source):
    """Write an uncompressed erofs (decompression is dear under emulation)."""
    part = image.with_suffix(".tmp")
    *options, where = source
    run(["mkfs.erofs", "-T0", "-U", "clear", "--all-root", *options, str(part), where], log=LOG / f"{image.stem}.log")
    os.replace(part, image)


def initramfs(path, files=None):
    """A guest's whole userland, a static busybox, our init and load; files: name -> content, more to put in."""
    busybox = None
    with tarfile.open(USERLAND) as full:
        busybox = full.extractfile("./usr/bin/busybox").read()
    archive = BytesIO()
    number = 0

    def add(name, mode, data=b""):
        nonlocal number
        number += 1
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        archive.write(header + b"\0" * (-len(header) % 4) + data + b"\0" * (-len(data) % 4))

    for folder in ("bin", "dev", "proc", "sys", "tmp", "run", "nest", "nest/bin", "mnt", "modules"):
        add(folder, 0o40755)
    add("bin/busybox", 0o100755, busybox)
    add("bin/sh", 0o120777, b"busybox")
    add("init", 0o100755, (GUEST / "rc").read_bytes())
    add("nest/init", 0o100755, (GUEST / "init").read_bytes())
    add("nest/bin/load", 0o100755, (PROGRAMS / "load").read_bytes())
    for name, data in (files or {}).items():
        add(name, 0o100644, data)
    add("TRAILER!!!", 0)
    path.write_bytes(gzip.compress(archive.getvalue(), 6, mtime=0))


def payload(name, kernel, folders=()):
    """What a booted level needs beyond the root image (erofs, /dev/vdb, mounted on /nest).

    kernel: Image for the guests.  folders: (folder, name in the payload) pairs.
    """
    staging = IMAGES / f"{name}.staging"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    shutil.copy(kernel, staging / "Image")
    for script in ("init", "agent", "guest", "job", "bench"):
        shutil.copy(GUEST / script, staging / script)
    initramfs(staging / "initramfs.gz")
    for folder, inside in folders:
        shutil.copytree(folder, staging / inside, ignore=shutil.ignore_patterns("*.o", "*.d", "*.stamp", "headers", "lib"))
    image = IMAGES / f"{name}.erofs"
    make_erofs(image, str(staging))
    shutil.rmtree(staging)
    return image
