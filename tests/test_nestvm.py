"""nestvm, our VMM: what it refuses, what its guests find, and how it ends."""

import base64
import re
import subprocess

import pytest

from workbench.emulator import PATIENCE, WARNINGS, Machine

NESTVM = "/nest/bin/nestvm"
GUEST = f"{NESTVM} --kernel /nest/Image --initrd /nest/initramfs.gz"
CONSOLE = f"console=ttyAMA0 {WARNINGS} panic=-1"

# Exit statuses, as `nestvm --help` tells them.
POWER_OFF, ERROR, USAGE, RESET, CRASH = 0, 1, 2, 3, 4


def run(host, job, options=""):
    """(status, console) of an ordinary guest that runs a shell command, which has no quotes."""
    append = f'{CONSOLE} NEST_LEVEL=L1 NEST_JOB="{job}"'
    return host.run(f"timeout {PATIENCE - 10} {GUEST} --append '{append}' {options}")


@pytest.mark.normal
@pytest.mark.parametrize("arguments, status, line", [
    ("", USAGE, "no kernel: give --kernel IMAGE; see nestvm --help"),
    ("--kernel /nest/Image --smp 0", USAGE, "--smp 0: give a number from 1 to 64"),
    ("--kernel /nest/Image --smp two", USAGE, "--smp two: give a number from 1 to 64"),
    ("--kernel /nest/Image --mem -1", USAGE, "--mem -1: give a number from 1 to 1048576"),
    ("--kernel /nest/Image --el2=nvhe", USAGE, r"--el2=nvhe: give --el2 \(VHE\) or --el2=e2h0 \(no VHE\)"),
    ("--kernel /nest/Image --el2 --el2=e2h0", USAGE, "--el2 and --el2=e2h0: give one of them"),
    ("--kernel /nest/Image --xen /nest/Image", USAGE, "--xen: Xen runs at EL2 without VHE: give --el2=e2h0, too"),
    ("--kernel /nest/Image --el2=e2h0 --xen /nest/Image --uboot /nest/Image", USAGE,
     "--xen and --uboot: give one of them"),
    ("--kernel /nest/Image --load /nest/Image", USAGE, "--load /nest/Image: give FILE@ADDRESS, as in --load"),
    ("--kernel /nest/Image --disks x", USAGE, "unknown option '--disks'"),
    ("--kernel", USAGE, "--kernel needs a value"),
    ("--kernel /nest/Image more", USAGE, "what is 'more'"),
    ("--kernel /nest/no-such", ERROR, "--kernel /nest/no-such: No such file or directory"),
    ("--kernel /nest/bin", ERROR, "--kernel /nest/bin: not a regular file"),
    ("--kernel /nest/initramfs.gz", ERROR, "--kernel /nest/initramfs.gz: no arm64 Image .*: give an uncompressed"),
    ("--kernel /nest/Image --mem 8", ERROR, "too little memory: /nest/Image .*: give --mem more than 8"),
    ("--kernel /nest/Image --mem 16 --initrd /nest/Image", ERROR, "too little memory: .*: give --mem more than 16"),
    ("--kernel /nest/Image --uboot /nest/no-such", ERROR, "--uboot /nest/no-such: No such file or directory"),
    ("--kernel /nest/Image --uboot $(truncate -s 129M /tmp/big; echo /tmp/big)", ERROR,
     "--uboot /tmp/big: larger than the flash of 128 MiB: give the u-boot.bin of qemu_arm64"),
    ("--kernel /nest/Image --uboot /nest/bin/nestvm", ERROR, "--uboot /nest/bin/nestvm: an ELF file, .*: give"),
    ("--kernel /nest/Image --uboot /nest/init --mem 48", ERROR,
     "too little memory: U-Boot's own memory .*: give --mem more than 48"),
    ("--kernel /nest/Image --load /nest/init@0x40001000", ERROR, "/nest/Image at 0x40000000 overlaps /nest/init at"),
    ("--kernel /nest/Image --load /nest/init@0x1000", ERROR, "/nest/init cannot be at 0x1000: memory begins at 0x4"),
    ("--kernel /nest/Image --initrd $(: >/tmp/none; echo /tmp/none)", ERROR, "--initrd /tmp/none: an empty file"),
    ("--kernel $(head -c 16 /nest/Image >/tmp/bad; head -c 8 /dev/zero | tr '\\0' '\\377' >>/tmp/bad; "
     "tail -c +25 /nest/Image | head -c 4096 >>/tmp/bad; echo /tmp/bad)", ERROR,
     "--kernel /tmp/bad: its header asks for more than 1048576 MiB: give an undamaged Image"),
    ("--kernel /nest/Image --append $(head -c 70000 /dev/zero | tr '\\0' x)", ERROR,
     "the device tree does not fit into 64 KiB: give a shorter --append"),
    ("--kernel /nest/Image --disk /nest/no-such", ERROR, "--disk /nest/no-such: No such file or directory"),
    ("--kernel /nest/Image --disk /dev/null", ERROR, "--disk /dev/null: smaller than a sector of 512 bytes"),
    ("--kernel /nest/Image --serial /nest/no-such", ERROR, "--serial /nest/no-such: Read-only file system"),
])
def test_refusals(arguments, status, line, host):
    got, output = host.run(f"{NESTVM} {arguments}")
    assert len(output.splitlines()) == 1 and re.match(f"nestvm: {line}", output), output
    assert got == status


@pytest.mark.normal
def test_host_without_kvm(host):
    status, output = host.run(f"mv /dev/kvm /dev/off; {GUEST}; status=$?; mv /dev/off /dev/kvm; exit $status")
    assert (status, output) == (ERROR, "nestvm: no /dev/kvm: this needs a kernel with KVM that was booted at EL2")


@pytest.mark.normal
def test_host_without_nesting(image, disks):
    with Machine(image, disks, "nestvm-refusals", smp=1, append=WARNINGS, nested="") as machine:
        machine.boot(120)
        for option in ("--el2", "--el2=e2h0"):
            status, output = machine.run(f"{GUEST} {option}")
            assert status == ERROR
            assert output == ("nestvm: --el2: this host gives no guest an EL2: boot it with kvm-arm.mode=nested, "
                              "on a CPU with FEAT_NV2")


@pytest.mark.normal
def test_failing_ioctl_is_named(host):
    """No room for a vCPU's file descriptor, after those of /dev/kvm and the VM."""
    status, output = host.run(f"exec 3>&-; ulimit -n 5; {GUEST}")
    assert (status, output) == (ERROR, "nestvm: ioctl KVM_CREATE_VCPU: Too many open files (errno 24)")


@pytest.mark.normal
def test_memory_that_the_host_has_not_is_named(host):
    status, output = host.run(f"ulimit -v 300000; {GUEST} --mem 512")
    assert (status, output) == (ERROR, "nestvm: no room for 512 MiB at 0x40000000: give less --mem: "
                                "Cannot allocate memory (errno 12)")


@pytest.mark.normal
def test_help(host):
    status, output = host.run(f"{NESTVM} --help")
    assert status == 0
    for option in ("kernel", "initrd", "append", "smp", "mem", "el2", "el2=e2h0", "xen", "xen-append", "domu",
                   "uboot", "load", "disk", "serial", "no-fpmr", "no-reboot", "help"):
        assert f"\n  --{option} " in output
    for status in ("0 the guest powered off", "2 bad arguments", "3 it asked for a reset", "4 it crashed"):
        assert status in output


@pytest.mark.normal
def test_guest_finds_its_machine(host):
    """Processors and their features, PMU, ITS, and the second UART."""
    status, output = run(
        host, "nproc; dmesg | grep -o ITS@; grep -m1 Features /proc/cpuinfo; ls /sys/bus/event_source/devices; "
        "echo second UART >/dev/ttyAMA1", "--smp 4 --serial /tmp/second")
    assert status == POWER_OFF, output
    assert "4" in output.splitlines() and "ITS@" in output.splitlines(), output
    assert all(re.search(rf"^Features.*\b{name}\b", output, re.M) for name in ("paca", "pacg", "sve")), output
    assert "armv8_pmuv3" in output, output
    assert host.run("cat /tmp/second")[1].strip() == "second UART"


@pytest.mark.normal
@pytest.mark.parametrize("option, there", [("", True), ("--no-fpmr", False)])
def test_fpmr(option, there, host):
    status, output = run(host, "grep -m1 Features /proc/cpuinfo", option)
    assert status == POWER_OFF and re.search(r"^Features.*\bfp\b", output, re.M), output
    assert bool(re.search(r"^Features.*\bfpmr\b", output, re.M)) == there, output


@pytest.mark.normal
@pytest.mark.parametrize("option, timers, psci, level", [
    ("", 4, "hvc", "el=EL1 mode=- "),
    ("--el2", 5, "smc", "el=EL2 mode=VHE "),
    ("--el2=e2h0", 4, "smc", "el=EL2 mode=nVHE "),
])
def test_exception_levels(option, timers, psci, level, host):
    """The guest starts at the level asked for, with the timers and the PSCI conduit of that level."""
    tree = "/proc/device-tree"
    status, output = run(host, f"wc -c <{tree}/timer/interrupts; cat {tree}/psci/method; ls -1 {tree}/intc*", option)
    assert status == POWER_OFF and level in output, output
    lines = output.splitlines()
    assert str(timers * 12) in lines and any(line.startswith(psci) for line in lines), output
    assert ("interrupts" in lines) == (option != ""), output


@pytest.mark.normal
def test_load(host):
    """A file at an address: the initial RAM disk, which only the command line tells the guest about."""
    append = f"{CONSOLE} initrd=0x48000000,$(stat -c%s /nest/initramfs.gz)"
    status, output = host.run(f"{NESTVM} --kernel /nest/Image --load /nest/initramfs.gz@0x48000000 "
                              f'--append "{append} NEST_LEVEL=L1 NEST_JOB=true" --no-reboot', 120)
    assert status == POWER_OFF and "NEST-JOB status=0" in output, output


@pytest.mark.normal
def test_disks(host):
    """What a guest reads and writes is what the host has, to the last sector; a read-only disk stays as it is."""
    status, output = host.run("cd /tmp && dd if=/dev/urandom of=a bs=513K count=15 && truncate -s $(stat -c%s a) b")
    assert status == 0, output
    status, console = run(host, "md5sum </dev/vda; dd if=/dev/vda of=/dev/vdb bs=100K && sync; cat /sys/block/vdc/ro",
                          "--disk /tmp/a --disk /tmp/b --disk /nest/Image")
    assert status == POWER_OFF, console
    status, sums = host.run("cd /tmp && md5sum <a && cmp a b && rm a b")
    assert status == 0 and sums in console, f"{sums}\n{console}"
    assert "1" in console.splitlines(), console


@pytest.mark.normal
def test_reset(host):
    """With --no-reboot a reset is an exit status; without, the guest starts anew: its disk says for how often."""
    status, console = run(host, "reboot -f", "--no-reboot")
    assert status == RESET, console
    count = "read n </dev/vda; echo boot $n; echo $((n + 1)) | dd of=/dev/vda conv=sync; [ $n = 2 ] || reboot -f"
    host.run("echo 1 | dd of=/tmp/n conv=sync")
    status, console = run(host, count, "--disk /tmp/n")
    assert status == POWER_OFF and re.findall(r"^boot (\d)$", console, re.M) == ["1", "2"], console


@pytest.mark.normal
def test_panic_is_a_reset(host):
    status, console = host.run(f"{GUEST} --append '{CONSOLE} rdinit=/no-such' --no-reboot")
    assert status == RESET and "Kernel panic" in console, console[-1000:]


# A guest that stores words to addresses, then powers off if its disk needs a reset, and asks for a reset if not.
DRIVER = """
    b       start
    .org    56
    .ascii  "ARM\\x64"
    .org    64
start:
    adr     x1, stores
1:  ldp     w2, w3, [x1], #8
    cbz     w2, 2f
    str     w3, [x2]
    b       1b
2:  mov     w2, #0x0a000000
    ldr     w2, [x2, #0x70]
    mov     w0, #0x84000000
    orr     w0, w0, #8
    ubfx    w2, w2, #6, #1
    eor     w2, w2, #1
    orr     w0, w0, w2
    hvc     #0
stores:
"""
# Offsets of a virtio device's registers, and where the guest has its ring.
QUEUE_NUM, NOTIFY, STATUS, DESC, AVAIL, USED, READY = 0x38, 0x50, 0x70, 0x80, 0x90, 0xa0, 0x44
RING = 0x44000000


def driver(folder, *, num=4, desc=RING, avail=RING + 0x1000, used=RING + 0x2000, memory=(), status=15):
    """The guest as an Image, base64: it sets up a ring, puts words into memory, and notifies the device."""
    stores = [(0x0a000000 + offset, value) for offset, value in (
        (QUEUE_NUM, num), (DESC, desc), (AVAIL, avail), (USED, used), (READY, 1), (STATUS, status))]
    stores += [*memory, (0x0a000000 + NOTIFY, 0), (0, 0)]
    source, program = folder / "driver.s", folder / "driver"
    source.write_text(DRIVER + "".join(f"    .word {address:#x}, {value:#x}\n" for address, value in stores))
    subprocess.run(["aarch64-linux-gnu-as", "-o", f"{program}.o", source], check=True)
    subprocess.run(["aarch64-linux-gnu-objcopy", "-O", "binary", f"{program}.o", program], check=True)
    return base64.b64encode(program.read_bytes()).decode()


def descriptor(number, address, length, flags=0, following=0):
    at = RING + 16 * number
    return [(at, address), (at + 8, length), (at + 12, flags | following << 16)]


# The device's ring of requests says that number 0 is there.
ONE = [(RING + 0x1000, 1 << 16)]


@pytest.mark.normal
@pytest.mark.parametrize("ring, expected", [
    ({}, RESET),
    ({"num": 3}, POWER_OFF),
    ({"desc": RING + 8}, POWER_OFF),
    ({"avail": RING + 0x100d}, POWER_OFF),
    ({"used": RING + 0x2002}, POWER_OFF),
    ({"used": 0x1000}, POWER_OFF),
    # A header outside of memory; the same before the driver is ready; a chain without an end; one without a status.
    ({"memory": ONE + descriptor(0, 0x1000, 16, 1, 1)}, POWER_OFF),
    ({"memory": ONE + descriptor(0, 0x1000, 16, 1, 1), "status": 11}, RESET),
    ({"memory": ONE + descriptor(0, RING + 0x3000, 16, 1, 0)}, POWER_OFF),
    ({"memory": ONE + descriptor(0, RING + 0x3000, 16)}, POWER_OFF),
    # A read of sector 0 as it should be.
    ({"memory": ONE + descriptor(0, RING + 0x3000, 16, 1, 1) + descriptor(1, RING + 0x4000, 512, 3, 2) +
      descriptor(2, RING + 0x3100, 1, 2)}, RESET),
])
def test_driver_that_breaks_the_rules(ring, expected, host, tmp_path):
    """The device asks to be reset, and nestvm stays up."""
    image = driver(tmp_path, **ring)
    status, output = host.run(f"truncate -s 4096 /tmp/blank; echo {image} | base64 -d >/tmp/driver; "
                              f"{NESTVM} --kernel /tmp/driver --disk /tmp/blank --no-reboot")
    assert (status, output) == (expected, "")


@pytest.mark.normal
def test_crash(host):
    """An Image that loads a pair of registers from a device, which KVM cannot emulate."""
    code = r"\x02\x40\xa1\xd2\x40\x04\x40\xa9"      # movz x2, #0xa00, lsl #16; ldp x0, x1, [x2]
    image = f"printf '{code}'; head -c 48 /dev/zero; printf 'ARM\\x64'; head -c 4096 /dev/zero"
    status, output = host.run(f"({image}) >/tmp/crash; {NESTVM} --kernel /tmp/crash")
    assert status == CRASH and output == "nestvm: ioctl KVM_RUN of vCPU 0: Function not implemented (errno 38)", output
