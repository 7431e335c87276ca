"""The Guests are tests themselves, and are tested here: each planted difference must end one with FAILED."""

import io
from collections.abc import Callable

import pytest
from elftools.elf.elffile import ELFFile
from guests.running import HANGS_AFTER

from kvmhost import Machine, OutcomeKind
from kvmhost._native import lib
from kvmhost.host.guest import Guest
from kvmhost.launcher.images import open_image

pytestmark = pytest.mark.lab

# FXSAVE area (Intel SDM vol. 1, "FXSAVE Area"): control word, MXCSR, ST0, XMM7.
FCW, MXCSR, ST0, XMM7 = 0, 24, 32, 272
PAIR_5 = 0xFFC0B000
PRESENT = 1


def symbol(image: str, name: str) -> int:
    with open_image(image) as file:
        table = ELFFile(io.BytesIO(file.read())).get_section_by_name(".symtab")
    return int(table.get_symbol_by_name(name)[0]["st_value"])


def register(name: str) -> Callable[[Guest], None]:
    def plant(guest: Guest) -> None:
        setattr(guest.frame, name, getattr(guest.frame, name) ^ 0x10)

    return plant


def fpu(offset: int, bit: int) -> Callable[[Guest], None]:
    def plant(guest: Guest) -> None:
        guest.memory.u8[guest.fxsave_at + offset] ^= bit

    return plant


def other_pair(guest: Guest) -> None:
    """Let this Guest see a page at the address of CPU 5's pair."""
    entry = (guest.block + lib.GUEST_SWITCHER_PT_OFFSET) // 8 + (PAIR_5 >> 12 & 511)
    guest.memory.u64[entry] = guest.registers_at | PRESENT


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        pytest.param(register("edi"), "EDI is", id="EDI"),
        pytest.param(register("ebp"), "EBP is", id="EBP"),
        pytest.param(register("eflags"), "EFLAGS is", id="EFLAGS.AF"),
        pytest.param(register("ecx"), "EAX is", id="ECX, seen as a wrong count in EAX"),
        pytest.param(fpu(FCW + 1, 4), "FPU control is", id="FPU control"),
        pytest.param(fpu(MXCSR, 1), "MXCSR is", id="MXCSR"),
        pytest.param(fpu(ST0, 1), "ST or MM, low is", id="ST0 or MM0"),
        pytest.param(fpu(XMM7 + 15, 0x80), "XMM is", id="the last byte of XMM7"),
    ],
)
def test_a_planted_difference_is_seen(plant: Callable[[Guest], None], said: str) -> None:
    # One CPU would keep the FPU's state in its registers; with two it is put away at each stop.
    assert said in last_words_after(plant, cpus=2)


def test_a_planted_page_at_another_cpus_pair_is_seen() -> None:
    """On one CPU, for a move to another would make the table anew."""
    assert "can read 0xffc0b000, of another CPU's pair" in last_words_after(other_pair, cpus=1)


def last_words_after(plant: Callable[[Guest], None], cpus: int) -> str:
    """Stop the Guest three times while it dwells, plant, let it go on, and return what it died of."""
    dwell = range(symbol("pair", "pair_dwell"), symbol("pair", "pair_dwell_end"))
    with Machine(memory="4M", cpus=cpus) as machine:
        guest = machine.load("pair", "ticks=4000000000 period=20000000 dwell=1000000")
        stops = 0
        while stops < 3:
            machine.run(timeout=0.05)
            assert guest.outcome is None
            stops += guest.frame.eip in dwell
        plant(guest)
        outcome = machine.run(timeout=HANGS_AFTER)[guest]
    assert outcome.kind is OutcomeKind.CRASHED
    assert outcome.reason.startswith("FAILED: ")
    return outcome.reason


@pytest.mark.parametrize("name", ["ebx", "edx", "esi", "edi", "ebp"])
def test_preempt_notices_a_register_that_changed(name: str) -> None:
    spin = symbol("preempt", "spin")
    with Machine(memory="4M") as machine:
        guest = machine.load("preempt", "ticks=4000000000")
        # In the loop, and EBP, the last register to be filled, has its value.
        while not (spin < guest.frame.eip < spin + 80 and guest.frame.ebp == 0x77665544):
            machine.run(timeout=0.05)
            assert guest.outcome is None
        register(name)(guest)
        outcome = machine.run(timeout=HANGS_AFTER)[guest]
    assert outcome.reason.startswith("FAILED: a register changed while spinning")


def test_syscalls_notices_a_stack_that_is_not_the_one_it_named() -> None:
    with Machine(memory="4M") as machine:
        guest = machine.load("syscalls", "calls=4000000000")
        while guest.frame.cs != lib.USER_CS:
            machine.run(timeout=0.05)
            assert guest.outcome is None
        guest.state.esp1 -= 16
        outcome = machine.run(timeout=HANGS_AFTER)[guest]
    assert outcome.reason.startswith("FAILED: call ")
    assert "not at SET_STACK's" in outcome.reason
