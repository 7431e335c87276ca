"""Port I/O at ring 1: who answers, how much of EAX changes, and what is the Guest's own fault."""

from types import SimpleNamespace
from typing import Any

import pytest

from kvmhost.host import emulate


class Ports:
    """A bus that writes down what it was asked and answers with more bits than it should."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def read_port(self, port: int, width: int) -> int:
        self.calls.append((port, width))
        return 0x1234567890ABCDEF

    def write_port(self, port: int, width: int, value: int) -> None:
        self.calls.append((port, width, value))


def guest(code: str, bus: Ports | None, cs: int = 0x61) -> Any:
    return SimpleNamespace(
        frame=SimpleNamespace(cs=cs, eip=0x1000, eax=0x11223344, edx=0xFFFF0CFC),
        bus=bus,
        read_linear=lambda address, length: bytes.fromhex(code)[:length],
    )


@pytest.mark.parametrize(
    ("code", "port", "width", "answered", "nobody"),
    [
        ("e464", 0x64, 1, 0x112233EF, 0x112233FF),
        ("66e564", 0x64, 2, 0x1122CDEF, 0x1122FFFF),
        ("e564", 0x64, 4, 0x90ABCDEF, 0xFFFFFFFF),
        ("ec", 0xCFC, 1, 0x112233EF, 0x112233FF),
        ("66ec", 0xCFC, 1, 0x112233EF, 0x112233FF),
        ("66ed", 0xCFC, 2, 0x1122CDEF, 0x1122FFFF),
        ("ed", 0xCFC, 4, 0x90ABCDEF, 0xFFFFFFFF),
    ],
)
def test_in(code: str, port: int, width: int, answered: int, nobody: int) -> None:
    bus = Ports()
    machine, lonely = guest(code + "90", bus), guest(code + "90", None)
    assert emulate.emulate(machine)
    assert emulate.emulate(lonely)
    assert bus.calls == [(port, width)]
    assert (machine.frame.eax, lonely.frame.eax) == (answered, nobody)
    assert machine.frame.eip == lonely.frame.eip == 0x1000 + len(code) // 2


@pytest.mark.parametrize(
    ("code", "port", "width", "value"),
    [
        ("e664", 0x64, 1, 0x44),
        ("66e764", 0x64, 2, 0x3344),
        ("e764", 0x64, 4, 0x11223344),
        ("ee", 0xCFC, 1, 0x44),
        ("66ef", 0xCFC, 2, 0x3344),
        ("ef", 0xCFC, 4, 0x11223344),
    ],
)
def test_out(code: str, port: int, width: int, value: int) -> None:
    bus = Ports()
    machine, lonely = guest(code, bus), guest(code, None)
    assert emulate.emulate(machine)
    assert emulate.emulate(lonely)
    assert bus.calls == [(port, width, value)]
    assert machine.frame.eax == lonely.frame.eax == 0x11223344
    assert machine.frame.eip == lonely.frame.eip == 0x1000 + len(code) // 2


@pytest.mark.parametrize("code", ["e440", "e441", "e442"])
def test_a_timer_that_is_not_there_has_run_down(code: str) -> None:
    bus = Ports()
    machine, lonely = guest(code, bus), guest(code, None)
    assert emulate.emulate(machine)
    assert emulate.emulate(lonely)
    assert machine.frame.eax == lonely.frame.eax == 0x11223300
    assert bus.calls == []


@pytest.mark.parametrize("code", ["e4", "66", "66e5", "6c", "f3ec", "6666ec", "ec"])
def test_what_is_cut_off_or_not_the_kernels_is_a_fault(code: str) -> None:
    bus = Ports()
    machine = guest(code, bus, cs=0x73 if code == "ec" else 0x61)
    assert not emulate.emulate(machine)
    assert (machine.frame.eip, machine.frame.eax, bus.calls) == (0x1000, 0x11223344, [])


@pytest.mark.parametrize(("ts", "value"), [(0, 0x80010033), (1, 0x8001003B)])
def test_cr0_can_be_read_and_not_written(ts: int, value: int) -> None:
    """mov %cr0, %ecx tells of protected mode, paging, an FPU, and TS as the Guest set it; not at ring 3."""
    reader, writer, user = guest("0f20c1", None), guest("0f22c1", None), guest("0f20c1", None, cs=0x73)
    for machine in (reader, writer, user):
        machine.frame.ecx = 0x55
        machine.state = SimpleNamespace(ts=ts)
    assert emulate.emulate(reader)
    assert (reader.frame.ecx, reader.frame.eip) == (value, 0x1003)
    for machine in (writer, user):
        assert not emulate.emulate(machine)
        assert (machine.frame.ecx, machine.frame.eip) == (0x55, 0x1000)


def test_cr4_reads_as_zero_and_forgets() -> None:
    """mov %cr4, %ecx and mov %ecx, %cr4; CR3 is not ours to answer."""
    reader, writer, other = guest("0f20e1", None), guest("0f22e1", None), guest("0f20d9", None)
    for machine in (reader, writer, other):
        machine.frame.ecx = 0x55
    assert emulate.emulate(reader)
    assert emulate.emulate(writer)
    assert (reader.frame.ecx, writer.frame.ecx) == (0, 0x55)
    assert reader.frame.eip == writer.frame.eip == 0x1003
    assert not emulate.emulate(other)
    assert not emulate.emulate(guest("0f20e1", None, cs=0x73))
