"""Boots the host level under QEMU's TCG and follows the consoles of all levels."""

import base64
import os
import re
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from .paths import LOG
from .ui import Fail, plain, shown

LEVELS = ("L0", "L1", "L2")

# Seconds for anything that ends by itself in one or two minutes at most: on a machine that is slow or has other work,
# ticks take a nested guest more and more of its time.
PATIENCE = 600

# A line that says a kernel is in trouble, at whatever level.
SPLAT = re.compile(
    r"WARNING: |BUG: |kernel BUG at|Kernel panic|Oops|Internal error|Unable to handle kernel"
    r"|possible recursive locking|possible circular locking|inconsistent lock state|suspicious RCU"
    r"|UBSAN: |KASAN: |rcu_\w+ detected stalls|rcu: INFO|soft lockup|hung_task|blocked for more than"
    r"|sleeping function called from|kvm \[\d+\]: Unexpected|HYP panic|unreferenced object")
# What matches SPLAT but says nothing about the kernel under test.
HARMLESS = re.compile(r"printk: .*WARNING|command line: ")


def cpu_model(name, **features):
    """-cpu argument: features off are cheaper to emulate and to configure for."""
    off = {"lpa2": "off", "sme": "off"} if name == "max" else {}
    return ",".join([name] + [f"{key}={value}" for key, value in (off | features).items()])


class Console:
    """One level's console: a log with time stamps, and the lines seen so far."""

    def __init__(self, level, folder, started):
        self.level = level
        self.path = folder / f"{level}.log"
        self.log = self.path.open("w")
        self.lines = []
        self.started = started
        self.rest = self.begun = ""

    def feed(self, data):
        *whole, self.rest = (self.rest + data.decode(errors="replace")).split("\n")
        for line in map(plain, whole):
            # Xen puts its own lines, and those of its other domains, into the middle of dom0's.
            begun, mark, inserted = line.partition("(XEN) ")
            line, self.begun = (mark + inserted, self.begun + begun) if mark else (self.begun + line, "")
            self.lines.append(line)
            self.log.write(f"{time.monotonic() - self.started:9.3f} {line}\n")
        self.log.flush()

    def splats(self):
        """Lines that report trouble, each with what follows it."""
        found = []
        for number, line in enumerate(self.lines):
            if SPLAT.search(line) and not HARMLESS.search(line):
                found.append("\n".join(f"{self.level}: {text}" for text in self.lines[number:number + 24]))
        return found


# On the kernel's command line: warnings on the console, which `quiet` hides, and nothing less.
WARNINGS = "loglevel=5"


class Machine:
    """A host level under emulation; a context manager that leaves no process behind.

    kernel: Image.  disks: read-only images, in order /dev/vda, /dev/vdb...
    name: of the log folder under build/log.  cpu: -cpu argument.  memory: MiB.
    icount: None or QEMU's -icount argument.  append: more kernel command line.
    interactive: the host's console is the caller's terminal.
    levels: whose consoles there are; further guests of the host are L1b, L1c...,
    and their guests L2b, L2c...
    """

    def __init__(self, kernel, disks, name, cpu=None, smp=2, memory=2048, icount=None, append="",
                 options=(), interactive=False, nested="kvm-arm.mode=nested", levels=LEVELS):
        self.folder = LOG / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        self.consoles = {level: Console(level, self.folder, self.started) for level in levels}
        self.starts = {}        # how many times a guest of the host was started (acts.py)
        self.sockets = {}
        self.process = None
        self.reader = None
        self.number = 0
        self.reply = b""
        self.stopping = False
        self.interactive = interactive
        self.work = tempfile.TemporaryDirectory(prefix="machine-")
        self.command = self.qemu(kernel, disks, cpu or cpu_model("max"), smp, memory, icount,
                                 f"{nested} {append}", options)

    def qemu(self, kernel, disks, cpu, smp, memory, icount, append, options):
        command = ["qemu-system-aarch64", "-M", "virt,virtualization=on,gic-version=3", "-cpu", cpu,
                   "-smp", str(smp), "-m", str(memory), "-nodefaults", "-nographic", "-no-reboot",
                   "-global", "virtio-mmio.force-legacy=false", "-kernel", str(kernel),
                   "-append", f"console=ttyAMA0 root=/dev/vda ro init=/init panic=-1 NEST_LEVEL=L0 {append}",
                   "-accel", "tcg" if icount else "tcg,thread=multi"]
        if icount:
            command += ["-icount", icount]
        # The kernel finds virtio-mmio devices from the last one to the first.
        for number, disk in reversed(list(enumerate(disks))):
            command += ["-drive", f"if=none,id=d{number},file={disk},format=raw,readonly=on",
                        "-device", f"virtio-blk-device,drive=d{number}"]
        command += ["-device", "virtio-serial-device,max_ports=8"]
        ports = ["ctl"] + [level for level in self.consoles if level != "L0"]
        for port in ports:
            command += ["-chardev", f"socket,id={port},path={self.work.name}/{port},server=on,wait=on",
                        "-device", f"virtserialport,chardev={port},name={port}"]
        if self.interactive:
            command += ["-serial", "mon:stdio"]
        else:
            ports.append("L0")
            command += ["-chardev", f"socket,id=L0,path={self.work.name}/L0,server=on,wait=on", "-serial", "chardev:L0"]
        self.ports = ports
        return command + list(options)

    def __enter__(self):
        (self.folder / "command").write_text(" ".join(self.command) + "\n")
        # Its own session, so that Ctrl-C reaches the workbench first, unless the
        # terminal is the guest's.
        self.process = subprocess.Popen(
            self.command, start_new_session=not self.interactive,
            stdin=None if self.interactive else subprocess.DEVNULL,
            stdout=None if self.interactive else subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            for port in self.ports:
                self.sockets[port] = self.connect(port)
        except BaseException:
            self.stop()
            raise
        self.reader = threading.Thread(target=self.follow, daemon=True)
        self.reader.start()
        return self

    def connect(self, port):
        """QEMU opens its sockets one after the other, each waiting for its peer."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                output = (self.process.stdout.read() if self.process.stdout else b"").decode(errors="replace")
                raise Fail(f"the emulator did not start: {output.strip().splitlines()[-1:] or self.process.returncode}")
            try:
                peer = socket.socket(socket.AF_UNIX)
                peer.connect(f"{self.work.name}/{port}")
                return peer
            except OSError:
                peer.close()
                time.sleep(0.02)
        raise Fail(f"the emulator did not open its port '{port}' within 30 s")

    def follow(self):
        """Read all consoles until the emulator ends (a thread of its own)."""
        peers = {peer: port for port, peer in self.sockets.items() if port != "ctl"}
        while peers:
            ready, _, _ = select.select(list(peers), [], [], 0.5)
            for peer in ready:
                try:
                    data = peer.recv(65536)
                except OSError:
                    data = b""
                if not data:
                    del peers[peer]
                    continue
                self.consoles[peers[peer]].feed(data)
            if not ready and self.stopping:
                return

    def __exit__(self, kind, error, trace):
        self.stop()

    def stop(self):
        """End the emulator."""
        self.stopping = True
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for peer in self.sockets.values():
            peer.close()
        for console in self.consoles.values():
            console.log.flush()
        self.work.cleanup()

    def check_splats(self):
        """Fail on trouble that any level's kernel reported."""
        for console in self.consoles.values():
            for splat in console.splats():
                raise Fail(f"{console.level}'s kernel is in trouble (log {shown(console.path)}):\n{splat}")

    def check_guests(self):
        """Fail on a guest of the host whose VMM failed since it was started last."""
        ended = re.findall(r"NEST-ENDED (\w+)\.(\d+) status=(.*)", "\n".join(self.consoles["L0"].lines))
        for level, number, status in ended:
            if int(number) == self.starts[level]:
                raise self.failed(level, f"its VMM ended with status {status}")

    def failed(self, level, waited_for):
        last = "\n".join(f"  {level}: {line}" for line in self.consoles[level].lines[-12:])
        if self.process.poll() is not None and self.process.stdout:
            last += "\n  emulator: " + self.process.stdout.read().decode(errors="replace").strip()
        return Fail(f"{level}: {waited_for}; log {shown(self.consoles[level].path)}, last lines:\n{last}")

    def wait(self, level, pattern, timeout, since=0):
        """Wait until a line of `level`'s console matches; returns the match.

        timeout: seconds.  since: number of the first line to look at.
        Raises Fail at the time-out, on a splat at any level, or when a guest's VMM or the emulator ends.
        """
        deadline = time.monotonic() + timeout
        console = self.consoles[level]
        while True:
            ended = self.process.poll() is not None
            lines = console.lines
            while since < len(lines):
                match = re.search(pattern, lines[since])
                since += 1
                if match:
                    return match
            self.check_splats()
            self.check_guests()
            if ended:
                raise self.failed(level, f"the emulator ended while waiting for '{pattern}'")
            if time.monotonic() > deadline:
                raise self.failed(level, f"no '{pattern}' within {timeout} s")
            time.sleep(0.05)

    def read_control(self, deadline, what):
        """The next line of the control port.  deadline: by time.monotonic()."""
        while b"\n" not in self.reply:
            if self.process.poll() is not None:
                raise self.failed("L0", f"the emulator ended during {what}")
            if time.monotonic() > deadline:
                self.check_splats()
                raise self.failed("L0", f"{what} took too long")
            ready, _, _ = select.select([self.sockets["ctl"]], [], [], 0.5)
            if ready:
                self.reply += self.sockets["ctl"].recv(65536)
            else:
                self.check_splats()
        line, self.reply = self.reply.split(b"\n", 1)
        return plain(line.decode(errors="replace"))

    def boot(self, timeout=PATIENCE):
        """Wait for the host's report and its agent; returns the report's fields."""
        report = self.report("L0", timeout)
        self.agent(timeout)
        if "-icount" in self.command:
            # While a machine with nothing to do waits for its disks, its clock goes from timer to timer without any time
            # to pass. Guests may take that for a stall: have what they read in the host's memory.
            self.run("cat /dev/vd? >/dev/null", timeout)
        return report

    def agent(self, timeout):
        """Wait until the host level's agent takes commands."""
        while self.read_control(time.monotonic() + timeout, "the start of the host's agent") != "NEST-AGENT ready":
            pass

    def report(self, level, timeout, console=None, since=0):
        """A level's report: release, el, mode, cpus, kvm, boot, seconds (to userspace).

        console: the level on whose console it is, if not its own.  since: as of `wait`.
        """
        line = self.wait(console or level, rf"NEST-REPORT level={level} (.*)", timeout, since)
        return dict(field.split("=", 1) for field in line[1].split())

    def job_status(self, level):
        """Status of the job that a level ended last, or None."""
        ended = re.findall(r"NEST-JOB status=(\d+)", "\n".join(self.consoles[level].lines))
        return ended[-1] if ended else None

    def start(self, command):
        """Send a command to the host level without waiting for its end."""
        self.number += 1
        text = "shell" if command == "shell" else base64.b64encode(command.encode()).decode()
        self.sockets["ctl"].sendall(f"{self.number} {text}\n".encode())

    def finish(self, timeout, what="the command"):
        """(status, output) of the command started last.  timeout: seconds for all of it."""
        output, deadline = [], time.monotonic() + timeout
        while True:
            line = self.read_control(deadline, what)
            match = re.fullmatch(rf"NEST-DONE {self.number} (\d+)", line)
            if match:
                return int(match[1]), "\n".join(output).rstrip("\n")
            output.append(line)

    def run(self, command, timeout=PATIENCE):
        """Run a shell command on the host level; returns (status, output)."""
        self.start(command)
        return self.finish(timeout, f"'{command.splitlines()[0][:60]}'")

    def power_off(self, timeout=PATIENCE):
        """Let the host level shut down by itself, then look for splats once more."""
        self.start("sync; poweroff -f")
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self.failed("L0", f"no power-off within {timeout} s") from None
        self.reader.join(5)
        self.check_splats()

    def shell(self):
        """The host level's shell at the caller's terminal, until it or the emulator is ended there."""
        self.agent(PATIENCE)
        self.start("shell")
        try:
            self.finish(86400, "the shell")
            self.power_off(30)
        except Fail:
            if self.process.poll() is None:
                raise


def leftovers():
    """Emulators of ours that still run (for the tests of clean endings)."""
    mine = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if b"qemu-system-aarch64" in (entry / "cmdline").read_bytes().split(b"\0")[0]:
                    mine.append(int(entry.name))
            except OSError:
                pass
    return mine
