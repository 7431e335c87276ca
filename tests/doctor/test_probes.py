"""Each question: the ending that answers yes, and planted ones that must not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from doctor.machines import BY_THE_MANUAL, IN_TCG, in_ring1, said, trapped

from kvmhost.doctor import _constants as c
from kvmhost.doctor.ending import End, Ending
from kvmhost.doctor.probes import PROBES, Answer, Probe

BY_NUMBER = {probe.number: probe for probe in PROBES}
SYMBOL = c.PROBE_SYMBOLS
GOOD = BY_THE_MANUAL
YES, NO, UNKNOWN = Answer.YES, Answer.NO, Answer.UNKNOWN

# What a CPU or a KVM could do wrong, one thing at a time.
PLANTED = {
    "PROBE-1": [(said(0xD09E), NO), (Ending(End.HALTED), NO), (Ending(End.HALTED, values=(1,)), NO)],
    "PROBE-2a": [(said(0x2B68D1EF), NO), (said(), NO), (trapped(13), NO), (Ending(End.SHUTDOWN), NO)],
    "PROBE-2b": [(said(0), NO), (said(0x1A57C0DE, 0), NO), (trapped(14), NO)],
    "PROBE-2c": [(trapped(13), NO), (said(0xFFFFFFFF), NO)],
    "PROBE-2d": [(trapped(13), NO), (Ending(End.OTHER_EXIT, code=6), NO)],
    "PROBE-3": [(Ending(End.INTERNAL_ERROR, code=1, where="cf"), NO), (Ending(End.HALTED, (0xD09E,)), NO)],
    "PROBE-4": [
        (in_ring1(0x1F, eip=SYMBOL["ring1_calls"], eflags=2), NO),
        (in_ring1(0x1F, eip=SYMBOL["ring1_called"], eflags=0x1002), NO),
        (in_ring1(0x1F, eip=SYMBOL["ring1_called"], eflags=2, cs=c.LGUEST_CS), NO),
        (in_ring1(0x1F, eip=SYMBOL["ring1_called"], eflags=2, ss=c.LGUEST_DS), NO),
        (in_ring1(0x1F, eip=SYMBOL["ring1_called"], eflags=2, esp=4), NO),
        (in_ring1(13, eip=SYMBOL["ring1_called"], eflags=2), NO),
    ],
    "PROBE-5": [(said(0x89, 0x89), NO), (said(0x8B, 0x8B), NO), (trapped(13), NO)],
    "PROBE-6": [
        (said(0xD09E), NO),
        (trapped(13, eip=SYMBOL["probe_limit"]), UNKNOWN),
        (trapped(13, eip=SYMBOL["limit_read"], error=0xA0), UNKNOWN),
        (trapped(12, eip=SYMBOL["limit_read"]), UNKNOWN),
        (Ending(End.SHUTDOWN), UNKNOWN),
    ],
    "PROBE-7": [
        (trapped(0, eip=SYMBOL["fault_divide"], eflags=0x46), NO),
        (trapped(0, eip=SYMBOL["probe_fault"], eflags=0x10046), UNKNOWN),
        (trapped(6, eip=SYMBOL["fault_divide"], eflags=0x10046), UNKNOWN),
    ],
    "PROBE-8": [
        (said(0x1A57C0DE, 0x2B68D1EF, 0x2B68D1EF), NO),
        (said(0x1A57C0DE, 0x1A57C0DE, 0x1A57C0DE), UNKNOWN),
        (said(0x1A57C0DE, 7, 0x2B68D1EF), UNKNOWN),
    ],
    "PROBE-9": [(Ending(End.TIMED_OUT), NO), (trapped(13), NO)],
    "PROBE-11": [(said(0xFFFF0058), NO), (said(0xFFFFFFFF), UNKNOWN), (said(), UNKNOWN)],
    "PROBE-14": [
        (Ending(End.SHUTDOWN, values=(0xD09E,), esi=0), NO),
        (Ending(End.SHUTDOWN, esi=0xD09E), UNKNOWN),
        (said(0xD09E), UNKNOWN),
    ],
    "CPUID": [
        (replace(GOOD["CPUID"], values=(0x2B68D1EF, 0x756E6547)), NO),
        (replace(GOOD["CPUID"], values=(0x1A57C0DE, 0)), NO),
        (replace(GOOD["CPUID"], values=()), NO),
        (replace(in_ring1(0x1F), values=(0x1A57C0DE, 0x756E6547)), NO),
        (replace(trapped(13, eip=SYMBOL["cpuid_at_ring1"]), values=(0x1A57C0DE, 0x756E6547)), NO),
        (replace(in_ring1(13, error=8), values=(0x1A57C0DE, 0x756E6547)), NO),
    ],
    "KICK": [(trapped(0xF0), NO), (in_ring1(0xFF), NO), (trapped(13), NO), (Ending(End.TIMED_OUT), NO)],
    "WP": [
        (in_ring1(0x1F), NO),
        (in_ring1(14, error=7, eip=SYMBOL["write_protected"], cr2=0xA000), NO),
        (in_ring1(14, error=3, eip=SYMBOL["write_protected"], cr2=0), NO),
        (in_ring1(14, error=1, eip=SYMBOL["probe_write_protect"], cr2=0xA000), NO),
    ],
    "XD": [
        (in_ring1(0x1F, eip=0xB002), NO),
        (in_ring1(14, error=0x15, eip=0xB000, cr2=0xB000), NO),
        (in_ring1(14, error=0x01, eip=0xB000, cr2=0xB000), NO),
    ],
}


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.number)
def test_the_manual_s_ending_is_a_yes(probe: Probe) -> None:
    assert probe.answer(BY_THE_MANUAL[probe.number]).answer is YES


@pytest.mark.parametrize(
    ("number", "ending", "answer"),
    [(number, *planted) for number, rows in PLANTED.items() for planted in rows],
)
def test_a_planted_failure_is_seen(number: str, ending: Ending, answer: Answer) -> None:
    result = BY_NUMBER[number].answer(ending)
    assert result.answer is answer
    assert result.fatal is BY_NUMBER[number].needed


def test_every_probe_has_planted_failures() -> None:
    assert set(PLANTED) == set(BY_NUMBER) == set(BY_THE_MANUAL)


def test_the_upper_half_of_a_pushed_selector_does_not_count() -> None:
    good = BY_THE_MANUAL["PROBE-4"]
    frame = list(good.frame)
    frame[3] |= 0xABCD0000
    frame[6] |= 0x12340000
    assert BY_NUMBER["PROBE-4"].answer(replace(good, frame=tuple(frame))).answer is YES


@pytest.mark.parametrize("end", [End.REFUSED, End.LOST, End.TIMED_OUT])
@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.number)
def test_a_kvm_that_fails_is_no_deviation(probe: Probe, end: End) -> None:
    result = probe.answer(Ending(end, code=16, where="KVM_CREATE_VM"))
    assert result.answer is not YES
    assert result.masked == ""


@pytest.mark.parametrize(
    ("number", "deviation"),
    [("PROBE-6", "DV-01"), ("PROBE-7", "DV-02"), ("PROBE-8", "DV-05"), ("PROBE-14", "DV-10")],
)
def test_silicon_that_deviates_names_the_deviation(number: str, deviation: str) -> None:
    assert BY_NUMBER[number].answer(IN_TCG[number]).masked == deviation


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (Ending(End.SHUTDOWN), "triple fault"),
        (Ending(End.FAIL_ENTRY, code=0x80000021), "invalid Guest state"),
        (Ending(End.FAIL_ENTRY, code=0x80000022), "MSR"),
        (Ending(End.FAIL_ENTRY, code=0x80000029), "machine check"),
        (Ending(End.FAIL_ENTRY, code=7), "invalid control field"),
        (Ending(End.FAIL_ENTRY, code=8), "invalid host field"),
        (Ending(End.FAIL_ENTRY, code=0xFFFFFFFF), "VMEXIT_INVALID"),
        (Ending(End.FAIL_ENTRY, code=0xFFFFFFFFFFFFFFFF), "VMEXIT_INVALID"),
        (Ending(End.INTERNAL_ERROR, code=1, where="cfb8"), "IRET"),
        (Ending(End.INTERNAL_ERROR, code=2), "two exceptions"),
        (Ending(End.INTERNAL_ERROR, code=3), "while another was delivered"),
        (Ending(End.INTERNAL_ERROR, code=4), "unknown hardware exit"),
        (Ending(End.OTHER_EXIT, code=6, eip=0x1234), "exit reason 6, at 0x1234"),
        (Ending(End.TIMED_OUT, eip=0x10000), "at 0x10000"),
        (Ending(End.REFUSED, code=16, where="KVM_CREATE_VM"), "KVM_CREATE_VM failed with EBUSY"),
        (Ending(End.LOST, where="died without a word"), "died without a word"),
        (in_ring1(14, error=3, cr2=0xA000), "vector 14, error code 0x3, from ring 1"),
        (said(1, 2), "0x1, 0x2"),
        (said(), "nothing"),
    ],
)
def test_an_ending_is_told_in_words(ending: Ending, words: str) -> None:
    assert words in ending.describe()
