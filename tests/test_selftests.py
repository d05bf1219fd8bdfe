"""KVM's own selftests of the kernel tree, run on the booted host.

tests/selftests.txt lists those that do not simply run in the normal tier.
"""

import re
from collections import namedtuple

import pytest

from workbench.emulator import PATIENCE
from workbench.paths import ROOT, TREE

Special = namedtuple("Special", "what arguments reason")
SKIPPED = 4     # kselftest's exit status for "cannot run here"
LIMITS = {"normal": PATIENCE, "long": 6 * PATIENCE}      # seconds


def programs():
    """Names of all selftests that the tree builds for arm64, in its Makefile's order."""
    makefile = (TREE / "tools/testing/selftests/kvm/Makefile").read_text()
    found = re.findall(r"^TEST_GEN_PROGS_aarch64 \+= (\S+)$", makefile, re.M)
    assert len(found) > 40, "the selftests' Makefile lists its programs in another way"
    return found


def special():
    """The exceptions: name -> (long | fails | skips, arguments, reason)."""
    table = {}
    for line in (ROOT / "tests/selftests.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            head, reason = line.split("#", 1)
            name, what, *arguments = head.split()
            table[name] = Special(what, " ".join(arguments), reason.strip())
    return table


def cases():
    exceptions = special()
    for name in programs():
        case = exceptions.get(name, Special("normal", "", ""))
        tier = "long" if case.what == "long" else "normal"
        yield pytest.param(name, case, id=name, marks=getattr(pytest.mark, tier))


def run(name, case, host, slower=1):
    """slower: how much longer than on the small kernel it may take."""
    if case.what == "fails":
        pytest.skip(f"fails on the unpatched kernel, too: {case.reason}")
    limit = slower * LIMITS["long" if case.what == "long" else "normal"]
    status, output = host.run(f"cd /tmp && /nest/selftests/{name} {case.arguments}", limit)
    assert status == (SKIPPED if case.what == "skips" else 0), output[-2000:]
    if status == SKIPPED:
        pytest.skip(case.reason)


@pytest.mark.parametrize("name, case", cases())
def test_selftest(name, case, host):
    run(name, case, host)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name, case in special().items() if case.what in ("fails", "skips")])
def test_exception_is_one_of_the_unpatched_kernel(name, unpatched):
    status, output = unpatched.run(f"cd /tmp && /nest/selftests/{name}", LIMITS["long"])
    assert (status == SKIPPED) == (special()[name].what == "skips") and status, output[-2000:]


def of_nesting(tier=None):
    """The selftests of nesting, in their own tier or in the one given."""
    for case in cases():
        if re.match("aarch64/nv_|aarch64/vgic_init|get-reg", case.id):
            yield pytest.param(*case.values, id=case.id, marks=getattr(pytest.mark, tier) if tier else case.marks)


@pytest.mark.parametrize("name, case", of_nesting())
def test_selftest_of_nesting_on_neoverse(name, case, neoverse):
    run(name, case, neoverse)


@pytest.mark.normal
@pytest.mark.parametrize("name", ("aarch64/nv_at", "aarch64/nv_exceptions", "aarch64/nv_stage2"))
def test_selftest_of_nesting_with_lpa2(name, lpa2):
    run(name, Special("normal", "", ""), lpa2)


@pytest.mark.parametrize("name, case", of_nesting("long"))
def test_selftest_of_nesting_on_the_debug_kernel(name, case, debug_host):
    run(name, case, debug_host, slower=10)


@pytest.mark.quick
def test_exceptions_are_selftests_with_reasons():
    for name, case in special().items():
        assert name in programs(), f"tests/selftests.txt: the tree has no {name}"
        assert case.what in ("normal", "long", "fails", "skips") and case.reason
