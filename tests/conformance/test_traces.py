"""The way of a case through each engine, instruction by instruction: all tell the same."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import pytest

from kvmhost.conformance.case import Case
from kvmhost.conformance.expand import expand
from kvmhost.conformance.row import find
from kvmhost.conformance.runners.bochs import BochsRunner
from kvmhost.conformance.runners.kvm import KvmRunner
from kvmhost.conformance.runners.steps import HLT, Steps
from kvmhost.conformance.runners.tcg import TcgRunner
from kvmhost.conformance.runners.tcg_trace import words
from kvmhost.conformance.stage import ADDRESS, PAGE, STOP, SW
from kvmhost.conformance.switchers import under_test

Tells = TcgRunner | BochsRunner | KvmRunner
ENGINES = [
    TcgRunner,
    BochsRunner,
    pytest.param(lambda: KvmRunner("native"), id="KvmRunner", marks=pytest.mark.lab),
]
STUB = ADDRESS["COLLECT"] + 16 * STOP


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest) -> Callable[[], Tells]:
    engine: Callable[[], Tells] = request.param
    return engine


def trip(row_id: str, name: str = "") -> Case:
    cases = expand(find(row_id), {"L2-seed": under_test()["L2-seed"]})
    return next(case for case in cases if name in case.name)


def test_every_step_of_a_case_and_no_other(make: Callable[[], Tells]) -> None:
    case = expand(find("SEN-010"))[0]
    assert case.cpu is not None
    with make() as runner:
        steps = runner.trace(case)
    assert steps == (case.cpu.eip, case.cpu.eip + 3, STUB, STUB + 5)


def test_a_trip_through_a_switcher_with_a_fault_and_a_shutdown(make: Callable[[], Tells]) -> None:
    """INT, a fault at ring 0 and an IRET: no engine loses the trail in a handler."""
    image = under_test()["L2-seed"]
    with make() as runner:
        home = runner.trace(trip("SW-RET-001"))
        lost = runner.trace(trip("SW-POP-005", "k = 6"))
    places = [SW + at for at in image.boundaries.values()]
    entry, ways_back = places[:29], [at for at in places if SW + image.symbols["return_to_host"] <= at]
    assert home[:2] == (ADDRESS["HOST_CODE"], ADDRESS["HOST_CODE"] + 1)
    assert home[2 : 2 + len(entry)] == tuple(entry)
    assert home[2 + len(entry)] == ADDRESS["G_CODE"]
    assert home[3 + len(entry)] == SW + image.entries[0x1F]
    assert ways_back[0] in home
    assert home[-3:] == (ADDRESS["HOST_CODE"] + 7, STUB, STUB + 5)
    assert SW + image.entries[13] == lost[lost.index(SW + image.boundaries["B24"]) + 1]
    # An engine may name the instruction that it could not even begin as well.
    assert SW + image.symbols["load_host_cr3_return"] in lost[-2:]


@pytest.mark.lab
def test_an_nmi_is_followed_into_its_stub() -> None:
    image = under_test()["L2-seed"]
    case = trip("NMI-001", "B26 trap")
    assert case.event is not None and case.event.kind == "nmi"
    with KvmRunner("native") as runner:
        steps = runner.trace(case)
    at = steps.index(SW + image.boundaries["B26"])
    assert SW + image.entries[2] in steps[at - 1 : at + 2]
    assert steps[-1] == STUB + 5


def test_a_program_has_no_steps() -> None:
    (case, *_) = expand(find("KVM-017"))
    assert case.program is not None
    assert KvmRunner("native").trace(case) == ()
    assert BochsRunner().trace(case) == ()


def test_handlers_are_planted_and_put_back() -> None:
    """Of four gates one is not present, one leads to ring 1, one is of a task: the first is planted."""
    memory = mmap.mmap(-1, 4 * PAGE)
    kinds = ((0x8E, 0x60), (0x0E, 0x60), (0x8E, 0x61), (0x85, 0x60))
    for number, (kind, selector) in enumerate(kinds):
        gate = (PAGE + 16 * number).to_bytes(2, "little") + bytes((selector, 0, 0, kind, 0, 0))
        memory[8 * number : 8 * number + 8] = gate
    before = bytes(memory)
    steps = Steps(memory, 2, lambda linear: linear)
    steps.before(2 * PAGE, 0, 31)
    assert [at for at in range(4 * PAGE) if memory[at] != before[at]] == [PAGE]
    assert memory[PAGE] == HLT and steps.landed(PAGE + 1) == PAGE
    assert steps.landed(PAGE + 17) is None
    steps.after()
    steps.before(PAGE, 0, 31)
    assert memory[PAGE] == before[PAGE]
    steps.after()
    assert memory[PAGE] == HLT
    steps.before(PAGE + 1, 0, 31)
    steps.lift()
    assert bytes(memory) == before
    assert list(steps.places) == [PAGE, PAGE + 1]
    memory.close()


@pytest.mark.parametrize(
    ("version", "option"),
    [("7.2.22", "-singlestep"), ("8.0.4", "-singlestep"), ("8.1.0", "-accel"), ("10.0.2", "-accel")],
)
def test_qemu_is_asked_in_the_words_of_its_version(version: str, option: str) -> None:
    assert words(f"QEMU emulator version {version} (Debian)", "log")[0] == option
