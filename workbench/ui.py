"""What the user sees: numbered steps, progress, errors, and commands run into logs."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

from .paths import BUILD, LOG, ROOT


class Fail(Exception):
    """An error for the user: one line that names the cause and the remedy."""


def shown(path):
    """A path as the user knows it: relative to the repository where it lies inside."""
    try:
        return str(path.relative_to(ROOT))
    except ValueError:
        return str(path)


class Steps:
    """Numbered steps of a command: ``[2/5] kernel ... 1234 of 1700 objects, 95 s``."""

    def __init__(self, total):
        self.total = total
        self.number = 0

    def step(self, what):
        self.number += 1
        return Step(f"[{self.number}/{self.total}] {what}")


class Step:
    """One step, a context manager; `progress` says how far it is, `done` what came of it."""

    def __init__(self, what):
        self.what = what
        self.start = time.monotonic()
        self.live = sys.stdout.isatty()
        self.result = ""
        self.printed = 0.0

    def __enter__(self):
        self.show("")
        return self

    def show(self, text, end=""):
        seconds = time.monotonic() - self.start
        line = f"{self.what}{': ' if text else ''}{text} ({seconds:.0f} s)"
        if self.live:
            print(f"\r\033[K{line}", end=end, flush=True)
        elif end:
            print(line, flush=True)

    def progress(self, text):
        interval = 0.5 if self.live else 60
        now = time.monotonic()
        if now - self.printed >= interval:
            self.printed = now
            self.show(text, end="" if self.live else "\n")

    def done(self, text):
        self.result = text

    def __exit__(self, kind, error, trace):
        self.show("failed" if kind else self.result, end="\n")


@contextmanager
def uninterrupted():
    """Puts Ctrl-C and SIGTERM off to its end, for the few seconds of a change that must not be half made."""
    signals = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)     # children have it from us
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run(command, log=None, on_line=None, **options):
    """Run a command; its output goes to `log`, each line also to `on_line`.

    command: list of strings.  log: Path in build/log or None (output is returned).
    Raises Fail, after showing the log's last lines, when it exits non-zero.
    """
    if log is None:
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, errors="replace", check=False, **options)
        if result.returncode:
            message = (result.stderr.strip() or result.stdout.strip()).splitlines()
            raise Fail(f"{shlex.join(map(str, command[:4]))} failed: {message[-1] if message else result.returncode}")
        return result.stdout

    LOG.mkdir(parents=True, exist_ok=True)
    tail = []
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, text=True, errors="replace", **options)
        try:
            for line in process.stdout:
                out.write(line)
                tail = tail[-14:] + [line]
                if on_line:
                    on_line(line)
            status = process.wait()
        except BaseException:
            # make removes what is half made, if it has the time.
            process.terminate()
            process.wait()
            raise
    if status:
        sys.stderr.write("".join(["\n"] + tail))
        raise Fail(f"{shlex.join(map(str, command[:3]))} ... failed with status {status}; whole log: {shown(log)}")
    return None


def run_into(command, file, log):
    """Run a command that writes the file named by its option -o; the file is there only when it is whole."""
    work = file.with_name(f"{file.name}.tmp")
    run([*command, "-o", str(work)], log=log)
    work.rename(file)


def git(*args, cwd, env=None, stdin=None):
    """Run git in `cwd` with none of the user's settings; returns its output."""
    # No garbage collection behind our back: a clone beside it finds objects gone.
    settings = ("safe.directory=*", "gc.auto=0", "maintenance.auto=false")
    clean = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null",
             "GIT_CONFIG_COUNT": str(len(settings)), **(env or {})}
    for number, setting in enumerate(settings):
        clean[f"GIT_CONFIG_KEY_{number}"], clean[f"GIT_CONFIG_VALUE_{number}"] = setting.split("=")
    return run(["git", *args], cwd=cwd, env=clean, input=stdin)


def need_disk(gigabytes, what, folder=BUILD):
    """Refuse to start what would fill the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    stat = os.statvfs(folder)
    free = stat.f_bavail * stat.f_frsize / 2**30
    if free < gigabytes:
        raise Fail(f"{shown(folder)} has {free:.1f} GiB free, {what} needs {gigabytes}: make room, "
                   "or run './nest clean'")


def plain(text):
    """Console text without terminal escapes and carriage returns."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\x00]", "", text)
