"""The commands of ./nest."""

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from . import base, bench, demo, images, kernel, scenarios, series
from .emulator import WARNINGS, Machine, cpu_model
from .paths import BUILD, CACHE, PATCHES, ROOT
from .ui import Fail, Steps, need_disk


def prepare(steps, flavour="small", tests=False, scenario=None):
    """Everything a boot needs; returns (the host's kernel, disks).  Guests run the small kernel."""
    with steps.step("series") as step:
        series.make_tree(step, strict=False)
    with steps.step(f"kernel ({flavour})") as step:
        image = kernel.build(flavour, step)
        inner = image if flavour == "small" else kernel.build("small", step)
    folders = []
    if tests:
        with steps.step("selftests") as step:
            folders.append((kernel.selftests(flavour, step), "selftests"))
    with steps.step("guest programs") as step:
        folders.append((kernel.programs(step), "bin"))
    with steps.step("root image") as step:
        root = images.rootfs(step)
    with steps.step("payload image") as step:
        folders += scenarios.folders(scenario, step) if scenario else []
        name = f"scenario-{scenario.name}" if scenario else f"{flavour}-tests" if tests else flavour
        disk = images.payload(name, inner, folders)
        step.done(f"{disk.stat().st_size >> 20} MiB")
    return image, [root, disk]


def result_file(name):
    """Where to write what `--json` or `--svg` names: the toolbox sees nothing but the repository."""
    path = (ROOT / name).resolve()
    if Path(name).is_absolute() or not path.is_relative_to(ROOT.resolve()) or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"'{name}': give a file in a folder of the repository, relative to it")
    return path


def count(text):
    """A number of CPUs."""
    if not text.isdecimal() or not 1 <= int(text) <= 8:
        raise argparse.ArgumentTypeError(f"'{text}': give a number from 1 to 8")
    return int(text)


def write_json(path, data):
    if path:
        path.write_text(json.dumps(data, indent=2) + "\n")


def cmd_tree(args):
    steps = Steps(1)
    with steps.step("series") as step:
        series.make_tree(step, strict=True)


def cmd_export(args):
    steps = Steps(1)
    with steps.step("export") as step:
        series.export(step)


def cmd_build(args):
    prepare(Steps(5), args.kernel)


def cmd_demo(args):
    steps = Steps(6)
    image, disks = prepare(steps)
    with steps.step("boot") as step:
        rows = demo.play(step, image, disks, args.vcpus, args.e2h0)
    print(f"{demo.table(rows)}\n\n{demo.told(rows)}")
    write_json(args.json, rows)


def cmd_boot(args):
    scenario = scenarios.named(args.scenario)
    steps = Steps(6)
    image, disks = prepare(steps, scenario.kernel, scenario=scenario)
    with steps.step(f"scenario {args.scenario}") as step:
        reports = scenarios.play(scenario, image, disks, on_level=step.progress)
        wrong = scenarios.unexpected(scenario, reports)
        if wrong:
            raise Fail("; ".join(wrong))
        step.done("as expected")


def cmd_shell(args):
    image, disks = prepare(Steps(6 if args.tests else 5), args.kernel, tests=args.tests)
    print("The host's shell; /nest/guest starts guests, 'exit' powers off, Ctrl-A X kills the emulator.")
    with Machine(image, disks, "shell", cpu=cpu_model(args.cpu), smp=args.smp, interactive=True,
                 append=f"{WARNINGS} {args.append}", options=args.qemu.split()) as host:
        host.shell()


def cmd_check(args):
    steps = Steps(4 + args.each)
    with steps.step("series") as step:
        series.make_tree(step, strict=True)
    with steps.step("as exported") as step:
        series.check_exported(step)
    with steps.step("applies") as step:
        bases, missing = [base.resolve(step)], ""
        if not os.environ.get("LINUX"):
            upstream = base.upstream(bases[0], series.touched(series.patch_files()), step)
            bases += [upstream] if upstream else []
            missing = "" if upstream else "; NOT CHECKED on the upstream release, of which the mirror has nothing"
        for one in bases:
            series.check_applies(step, one)
        step.done(f"{len(series.patch_files())} patches, no fuzz, on " + " and on ".join(one.origin for one in bases) + missing)
    with steps.step("checkpatch --strict") as step:
        series.check_style(step)
    if args.each:
        with steps.step("each patch compiles") as step:
            kernel.check_each(step)


def cmd_bench(args):
    bench.command(args, prepare, write_json)


def cmd_test(args):
    steps = Steps(6)
    prepare(steps, tests=True)
    tier = "quick" if args.quick else "long" if args.long else "normal"
    command = [sys.executable, "-m", "pytest", str(ROOT / "tests"), f"--tier={tier}", "-p", "no:cacheprovider",
               f"--basetemp={BUILD / 'pytest'}", "--durations=10", "--durations-min=1"]
    if args.filter:
        command += ["-k", args.filter]
    sys.stdout.flush()
    sys.exit(subprocess.run(command + args.more, cwd=ROOT, check=False).returncode)


def cmd_clean(args):
    """Remove what can be made again; the kernel tree only when it holds no work of its own."""
    if args.all:
        now = series.state()
        work = now and series.unexported(now)
        if work:
            raise Fail(f"build/linux has work that patches/ does not hold: {work}: run './nest export' first")
        others = now and series.further_work()
        if others:
            raise Fail(f"build/linux has more than the series: {', '.join(others)}: delete that, or move build/linux away")
    for thing in BUILD.iterdir() if BUILD.exists() else ():
        if thing.name == series.TREE.name and not args.all:
            continue
        shutil.rmtree(thing) if thing.is_dir() else thing.unlink()
    if args.all:
        with base.store():
            for thing in CACHE.iterdir():
                if thing.name.startswith(("base", "source", "toolbox-", "userland-")) and not in_use(thing):
                    shutil.rmtree(thing) if thing.is_dir() else thing.unlink()


def in_use(thing):
    """Is this the userland of this run, or the toolbox of some ./nest, each of which has a lock on its own?"""
    if thing.name == os.environ["NEST_USERLAND"] or thing.suffix == ".lock":
        return True
    if not thing.name.startswith("toolbox-"):
        return False
    with thing.with_name(f"{thing.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class Parser(argparse.ArgumentParser):
    """Bad arguments are one line."""

    def error(self, message):
        raise Fail(f"{message}; see {self.prog} --help")


def parser():
    top = Parser(prog="./nest", add_help=False)
    commands = top.add_subparsers(dest="command", required=True)

    def command(name, function):
        sub = commands.add_parser(name, add_help=False)
        sub.set_defaults(function=function)
        return sub

    command("tree", cmd_tree)
    command("export", cmd_export)
    command("check", cmd_check).add_argument("--each", action="store_true")
    command("clean", cmd_clean).add_argument("--all", action="store_true")
    demo_command = command("demo", cmd_demo)
    demo_command.add_argument("--json", type=result_file)
    demo_command.add_argument("--vcpus", type=count, default=1)
    demo_command.add_argument("--e2h0", action="store_true")
    boot = command("boot", cmd_boot)
    boot.add_argument("scenario", nargs="?", default="guest")
    shell = command("shell", cmd_shell)
    shell.add_argument("--cpu", default="max")
    shell.add_argument("--smp", type=count, default=2)
    shell.add_argument("--append", default="")
    shell.add_argument("--qemu", default="")
    shell.add_argument("--tests", action="store_true")
    for sub in (command("build", cmd_build), shell):
        sub.add_argument("--kernel", default="small", choices=sorted(kernel.FLAVOURS))
    bench.options(command("bench", cmd_bench), result_file)
    test = command("test", cmd_test)
    tier = test.add_mutually_exclusive_group()
    tier.add_argument("--quick", action="store_true")
    tier.add_argument("--long", action="store_true")
    test.add_argument("filter", nargs="?")
    test.add_argument("more", nargs=argparse.REMAINDER)
    return top


def stop(number, frame):
    raise KeyboardInterrupt


def main():
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        args = parser().parse_args()
        PATCHES.mkdir(exist_ok=True)
        need_disk(1, "the workbench")
        lock = (BUILD / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Fail("another ./nest works in this checkout: wait for it or use a second clone") from None
        args.function(args)
    except Fail as error:
        print(f"nest: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"nest: {error}: make room, or run './nest clean', if it is about what is made here", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nnest: interrupted; what was half made will be made anew", file=sys.stderr)
        sys.exit(130)


main()
