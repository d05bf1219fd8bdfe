"""The kernel the series applies to: Debian's linux-source-6.12, or LINUX=."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

from .paths import BUILD, CACHE, LOG, ROOT
from .ui import Fail, git, need_disk, run

SERIES = "6.12"
PIN = ROOT / "linux-version"

# id: changes with the content.  version: as `make kernelversion` says.
# repo: bare git repository with the base as its only commit, on branch `base`.
Base = namedtuple("Base", "id version origin repo")


def commit_of(base):
    return git("rev-parse", "base", cwd=base.repo).strip()


STAMP = {"GIT_AUTHOR_NAME": "Linux", "GIT_AUTHOR_EMAIL": "linux@localhost",
         "GIT_AUTHOR_DATE": "2024-11-17T22:15:08Z"}
STAMP |= {key.replace("AUTHOR", "COMMITTER"): value for key, value in STAMP.items()}


def pinned():
    """The 6.12.y version that the file linux-version pins."""
    version = PIN.read_text().strip()
    if not re.fullmatch(r"6\.12\.\d+", version):
        raise Fail(f"linux-version says '{version}': it must name one 6.12.y, as in 6.12.117")
    return version


@contextmanager
def store():
    """The cache for this process alone; ./nest takes the same lock for its set-up."""
    with (CACHE / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def apt_get(*args, **options):
    try:
        run(["apt-get", *args], **options)
    except Fail as error:
        raise Fail(f"{error}: check the network, or name another mirror with MIRROR= or a kernel with LINUX=") from None


def apt_update():
    apt_get("update", "-o", "APT::Update::Error-Mode=any", log=LOG / "apt.log")


def version_key(version):
    """What Debian's versions of one kernel series sort by."""
    return [int(number) for number in re.findall(r"\d+", version)]


def choose(versions, wanted):
    """Of Debian's package versions the one of kernel `wanted`, else the newest 6.12.y."""
    ours = sorted((v for v in versions if v.startswith(SERIES + ".")), key=version_key)
    exact = [v for v in ours if re.split("[-~]", v)[0] == wanted]
    if not ours:
        raise Fail("Debian's mirror has no linux-source-6.12: give the kernel with LINUX=")
    return (exact or ours)[-1]


def download(package, version, folder):
    """A Debian package file, kept in the cache; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    pattern = f"{package.removesuffix(':arm64')}_{version.replace(':', '%3a')}_*.deb"
    found = sorted(folder.glob(pattern))
    if not found:
        partial = folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            apt_get("download", f"{package}={version}", cwd=partial, log=LOG / "download.log")
        except Fail:
            apt_update()    # the lists may be older than the mirror
            apt_get("download", f"{package}={version}", cwd=partial, log=LOG / "download.log")
        for deb in partial.iterdir():
            deb.rename(folder / deb.name)
        found = sorted(folder.glob(pattern))
    return found[-1]


def versions_of(package):
    """The versions of a package that the mirror has now."""
    return [line.split("|")[1].strip() for line in run(["apt-cache", "madison", package]).splitlines()
            if line.count("|") == 2 and "Sources" not in line]


def newest(package, series=""):
    """The newest version of a package of Debian's, as apt names it, that starts with `series`."""
    if not versions_of(package):
        with store():
            apt_update()
    versions = [version for version in versions_of(package) if version.startswith(series)]
    if not versions:
        raise Fail(f"Debian's mirror has no {package} {series}".rstrip() + ": name another with MIRROR=")
    return max(versions, key=version_key)


def unpack(packages, version, folder, then=lambda work: None):
    """Unpack packages of one version into a new folder of the cache, which is there when it is complete.

    packages: as apt names them.  then: called with the folder before that.
    """
    need_disk(2, f"unpacking {packages[0]}", CACHE)
    work = folder.with_name(f"{folder.name}.tmp")
    with store():
        if not folder.exists():
            shutil.rmtree(work, ignore_errors=True)
            for package in packages:
                run(["dpkg-deb", "-x", str(download(package, version, folder.parent)), str(work)])
            then(work)
            work.rename(folder)
    return folder


def debian_source(step):
    """(version, tarball) of Debian's linux-source-6.12 as pinned."""
    wanted = pinned()
    store = CACHE / "source"
    kept = sorted(store.glob(f"linux-source-{SERIES}_{wanted}-*_all.deb"))
    if kept:
        return wanted, kept[-1]
    apt_update()
    package = choose(versions_of(f"linux-source-{SERIES}"), wanted)
    version = re.split("[-~]", package)[0]
    if version != wanted:
        print(f"\nnest: Debian no longer has {wanted}; taking its newest 6.12.y, {version}")
    step.progress(f"downloading {package}")
    return version, download(f"linux-source-{SERIES}", package, store)


def fetch(uri, checksum, file):
    """Download a file with apt's settings; False where the mirror has it no more."""
    partial = file.with_suffix(".partial")
    result = subprocess.run(["/usr/lib/apt/apt-helper", "download-file", uri, str(partial), checksum],
                            capture_output=True, text=True, check=False)
    if result.returncode == 0:
        partial.rename(file)
    elif " 404 " not in result.stderr:
        raise Fail(f"downloading {file.name} failed: {(result.stderr.strip().splitlines() or ['no reason given'])[0]}")
    return result.returncode == 0


def source_package(version, suffix, step):
    """A file of Debian's source package `linux`, by its suffix, kept in the cache; None where the mirror has it no more."""
    uris = run(["apt-get", "source", "-q", "--print-uris", "--download-only", "--only-source", f"linux={version}"])
    uri, name, checksum = re.search(rf"^'(\S+)' (\S+{re.escape(suffix)}) \d+ (\S+)$", uris, re.M).groups()
    file = CACHE / "source" / name
    step.progress(f"downloading {name}")
    return file if file.exists() or fetch(uri, checksum, file) else None


@store()
def upstream(debian, names, step):
    """The upstream release of the pinned version, for `check`: the orig tarball of Debian's source package.

    Where the mirror does not have it, Debian's source without Debian's own patches to the files `names`, taken
    from the newest packaging that the mirror has; None without any.
    """
    wanted = pinned()
    name = f"upstream-{wanted}"
    if (CACHE / "base" / f"{name}.git").exists():
        return opened(CACHE / "base" / f"{name}.git")
    apt_update()
    listed = re.findall(rf"^Version: ({re.escape(SERIES)}\.\S+)$",
                        run(["apt-cache", "showsrc", "--only-source", "linux"]), re.M)
    for package in [v for v in listed if v.startswith(f"{wanted}-")]:
        tarball = source_package(package, ".orig.tar.xz", step)
        if tarball:
            return from_tarball(tarball, name, f"upstream release {wanted}")
    for package in sorted(set(listed), key=version_key, reverse=True):
        packaging = source_package(package, ".debian.tar.xz", step)
        if packaging:
            return without_patches(debian, packaging, names, f"upstream {wanted}, as Debian's source without the "
                                   f"patches of {package}: the mirror has no newer packaging and no upstream source")
    return None


def without_patches(debian, packaging, names, origin):
    """Debian's kernel with its own patches to the files `names` taken back, as a base of this one run."""
    repo = BUILD / "unpatched.git"
    shutil.rmtree(repo, ignore_errors=True)
    git("clone", "-q", "--bare", "--shared", str(debian.repo), str(repo), cwd="/")
    with tempfile.TemporaryDirectory() as work:
        env = {"GIT_INDEX_FILE": f"{work}/index"}
        run(["tar", "-xf", str(packaging), "-C", work, "debian/patches"])
        folder = Path(work) / "debian/patches"
        order = [line.split()[0] for line in (folder / "series").read_text().splitlines() if re.match(r"\w", line)]
        git("read-tree", "base", cwd=repo, env=env)
        for patch in reversed(order):
            git("apply", "-R", "--cached", "--whitespace=nowarn", *(f"--include={name}" for name in names),
                str(folder / patch), cwd=repo, env=env)
        tree = git("write-tree", cwd=repo, env=env).strip()
        commit = git("commit-tree", "-m", origin, tree, cwd=repo, env=STAMP).strip()
    git("update-ref", "refs/heads/base", commit, cwd=repo)
    return Base(repo.stem, debian.version, origin, repo)


def kernel_version(folder):
    """Version of a kernel source folder, by its Makefile."""
    makefile = folder / "Makefile"
    text = makefile.read_text() if makefile.is_file() else ""
    parts = re.findall(r"^(?:VERSION|PATCHLEVEL|SUBLEVEL) = (\d+)$", text[:400], re.M)
    if len(parts) != 3:
        raise Fail(f"LINUX={os.environ.get('LINUX', '')}: no kernel source there; "
                   "give a folder, tarball or git tree of Linux 6.12.y")
    return ".".join(parts)


def import_folder(folder, repo, origin):
    """Make the bare repository `repo` with `folder` as its one commit."""
    version = kernel_version(folder)
    if not version.startswith(SERIES + "."):
        raise Fail(f"{origin} is Linux {version}: the series needs a {SERIES}.y")
    work = repo.with_suffix(".tmp")
    shutil.rmtree(work, ignore_errors=True)
    git("init", "-q", "--bare", "-b", "base", str(work), cwd="/")
    where = {"GIT_DIR": str(work), "GIT_WORK_TREE": str(folder)}
    git("add", "-A", "-f", ".", cwd=folder, env=where)
    git("commit", "-q", "-m", f"Linux {version}\n\nBase of the series: {origin}.", cwd=folder, env=where | STAMP)
    (work / "index").unlink()
    (work / "origin").write_text(f"{version}\n{origin}\n")
    work.rename(repo)
    return opened(repo)


def opened(repo):
    version, origin = (repo / "origin").read_text().splitlines()
    return Base(repo.stem, version, origin, repo)


def from_tarball(tarball, name, origin):
    """The base in a tarball or in Debian's package of one, through the cache."""
    repo = CACHE / "base" / f"{name}.git"
    if repo.exists():
        return opened(repo)
    need_disk(4, "unpacking the kernel source", CACHE)
    work = CACHE / "base" / "unpack.tmp"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if tarball.suffix == ".deb":
        run(["dpkg-deb", "-x", str(tarball), str(work / "deb")])
        tarball = next((work / "deb/usr/src").glob("linux-source-*.tar.xz"))
    (work / "linux").mkdir()
    run(["tar", "-xf", str(tarball), "-C", str(work / "linux"), "--strip-components=1", "--no-same-owner"],
        log=LOG / "unpack.log")
    base = import_folder(work / "linux", repo, origin)
    shutil.rmtree(work)
    return base


def from_user(path):
    """The base that LINUX= names: a folder, a tarball or a git tree."""
    if path.is_file():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
        return from_tarball(path, f"tarball-{digest}", f"LINUX= tarball {path.name}")
    if (path / ".git").exists() or (path / "HEAD").exists():
        commit = git("rev-parse", "HEAD", cwd=path).strip()
        repo = CACHE / "base" / f"git-{commit[:12]}.git"
        if repo.exists():
            return opened(repo)
        work = CACHE / "base" / "unpack.tmp"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        tar = CACHE / "base" / "archive.tmp"
        git("archive", "--prefix=linux/", "-o", str(tar), "--format=tar", "HEAD", cwd=path)
        run(["tar", "-xf", str(tar), "-C", str(work)])
        tar.unlink()
        base = import_folder(work / "linux", repo, f"LINUX= git tree at {commit[:12]}")
        shutil.rmtree(work)
        return base
    # A plain folder has no name for its content: it is read anew each time.
    shutil.rmtree(BUILD / "folder.git", ignore_errors=True)
    return import_folder(path, BUILD / "folder.git", "LINUX= folder")


@store()
def resolve(step):
    """The base that this run uses."""
    user = os.environ.get("LINUX")
    if user:
        return from_user(Path(user))
    version = pinned()
    repo = CACHE / "base" / f"debian-{version}.git"
    if repo.exists():
        return opened(repo)
    version, tarball = debian_source(step)
    package = tarball.name.split("_")[1]
    return from_tarball(tarball, f"debian-{version}", f"Debian linux-source-{SERIES} {package}")
