"""The Guest pair is a test itself, and is tested here: each kind of planted difference must end it."""

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


def symbol(name: str) -> int:
    with open_image("pair") as file:
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
    dwell = range(symbol("pair_dwell"), symbol("pair_dwell_end"))
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
