"""Tiers of the tests, and the booted host that they share.

A test's tier is the marker above it: quick (seconds), normal, or long (minutes
to hours).  `./nest test` runs quick and normal ones.
"""

import pytest

from workbench import images, kernel
from workbench.emulator import PATIENCE, WARNINGS, Machine, cpu_model
from workbench.images import IMAGES
from workbench.scenarios import BOOT
from workbench.ui import Steps

TIERS = ("quick", "normal", "long")


def pytest_addoption(parser):
    parser.addoption("--tier", choices=TIERS, default="normal")


def pytest_configure(config):
    for tier in TIERS:
        config.addinivalue_line("markers", f"{tier}: tier of the test")


def tier_of(item):
    found = [tier for tier in TIERS if item.get_closest_marker(tier)]
    assert len(found) == 1, f"{item.nodeid} needs one of the markers {', '.join(TIERS)}"
    return found[0]


def pytest_collection_modifyitems(config, items):
    limit = TIERS.index(config.getoption("tier"))
    dropped = [item for item in items if TIERS.index(tier_of(item)) > limit]
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in dropped]


@pytest.fixture(scope="session")
def disks():
    """Root image and payload with the selftests, as `./nest test` prepared them."""
    return [IMAGES / "root.erofs", IMAGES / "small-tests.erofs"]


@pytest.fixture(scope="session")
def image():
    """The patched small kernel."""
    return kernel.image_of("small")


class Host:
    """A booted host that is started anew when a test left it in trouble."""

    def __init__(self, flavour, disks, cpu, **features):
        self.arguments = (kernel.image_of(flavour), disks, "-".join(["tests-host", flavour, cpu, *features]))
        self.limit = BOOT[flavour.removeprefix("base-")]
        self.cpu = cpu_model(cpu, **features)
        self.machine = None

    def run(self, command, timeout=PATIENCE):
        """(status, output) of a command on the host; a splat or time-out fails the test."""
        if self.machine is None:
            self.machine = Machine(*self.arguments, cpu=self.cpu, memory=6144, smp=4, append=WARNINGS)
            self.machine.__enter__()
            try:
                self.machine.boot(self.limit)
            except BaseException:
                self.stop()
                raise
        try:
            result = self.machine.run(command, timeout)
            self.machine.check_splats()
            return result
        except BaseException:
            self.stop()
            raise

    def stop(self):
        if self.machine:
            self.machine.stop()
            self.machine = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


@pytest.fixture(scope="session")
def host(disks):
    with Host("small", disks, "max") as shared:
        yield shared


@pytest.fixture(scope="session")
def neoverse(disks):
    """A host with few of the architecture's features."""
    with Host("small", disks, "neoverse-v1") as shared:
        yield shared


@pytest.fixture(scope="session")
def lpa2(disks):
    """A host with 52 bits of address."""
    with Host("small", disks, "max", lpa2="on") as shared:
        yield shared


@pytest.fixture(scope="session")
def debug_host(disks):
    """A host whose kernel looks for its own mistakes."""
    with Steps(1).step("debug kernel") as step:
        kernel.build("debug", step)
    with Host("debug", disks, "max") as shared:
        yield shared


@pytest.fixture(scope="session")
def unpatched(disks):
    """A host with the unpatched kernel and that one's own selftests."""
    with Steps(1).step("unpatched kernel") as step:
        kernel.build("base-small", step)
        folders = [(kernel.selftests("base-small", step), "selftests"), (kernel.PROGRAMS, "bin")]
        payload = images.payload("base-small-tests", kernel.image_of("small"), folders)
    with Host("base-small", [disks[0], payload], "max") as shared:
        yield shared
