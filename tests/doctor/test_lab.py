"""Inside the lab: a real kvm_amd, so every Guest runs, and each can be made to fail.

A probe that cannot fail proves nothing.  So each Guest also runs in a world with one thing broken,
or with one of its instructions replaced, and its answer must change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from kvmhost.doctor import Answer, device, examine, native_verdict, probes
from kvmhost.doctor import _constants as c
from kvmhost.doctor.device import LinuxKvm
from kvmhost.doctor.ending import End
from kvmhost.doctor.probes import Probe
from kvmhost.doctor.world import Event, ProbeGuest, build

pytestmark = pytest.mark.lab

YES, NO, UNKNOWN = Answer.YES, Answer.NO, Answer.UNKNOWN
# What lab.md and conformance 0.5 say about kvm_amd on TCG's silicon.
EXPECTED = {
    "PROBE-1": YES,
    "PROBE-2a": YES,
    "PROBE-2b": YES,
    "PROBE-2c": YES,
    "PROBE-2d": YES,
    "PROBE-3": YES,
    "PROBE-4": YES,
    "PROBE-5": YES,
    "PROBE-6": NO,
    "PROBE-7": NO,
    "PROBE-8": NO,
    "PROBE-9": YES,
    "PROBE-11": YES,
    "PROBE-14": NO,
    "CPUID": YES,
    "KICK": YES,
    "WP": YES,
    "XD": YES,
}


def test_the_verdict() -> None:
    report = examine()
    assert {probe.number: probe.answer for probe in report.probes} == EXPECTED
    assert report.native.ok, report.native.reason
    assert report.native.backend == "svm"
    assert report.classes == ("AN", "TCG")
    assert report.deviations == (
        "DV-01",
        "DV-02",
        "DV-03",
        "DV-04",
        "DV-05",
        "DV-06",
        "DV-10",
        "DV-12",
    )
    assert report.exit_code == 0
    assert not any(capability.missing for capability in report.capabilities)
    assert dict(report.features)["NX"] is True


def test_the_quick_verdict_agrees_also_on_an_open_descriptor() -> None:
    quick = native_verdict()
    assert quick.ok
    kvm = LinuxKvm()
    kvm.open()
    try:
        assert native_verdict("/nowhere/kvm", fd=kvm.fd) == quick
        assert kvm.api_version() == c.KVM_API_VERSION
    finally:
        kvm.close()


IRET, LTR, WRMSR, OUT_ASK = b"\xcf", b"\x0f\x00\xd8", b"\x0f\x30", bytes((0xE7, c.PROBE_PORT_ASK))
INT3, HLT = b"\xcc", b"\xf4"
XOR_FRAMES = b"\x35" + (c.PROBE_FRAME_ONE ^ c.PROBE_FRAME_TWO).to_bytes(4, "little")
NOP = b"\x90"
Damage = Callable[[ProbeGuest, bytearray], None]


def text(old: bytes, new: bytes) -> Damage:
    """Replace the first `old` after the Guest's entry; what is left over becomes NOPs."""

    def damage(guest: ProbeGuest, memory: bytearray) -> None:
        at = memory.index(old, c.PROBE_SYMBOLS[guest.entry])
        memory[at : at + len(old)] = new.ljust(len(old), NOP)

    return damage


def byte(address: int, value: int) -> Damage:
    """Another value for one byte of the world."""

    def damage(guest: ProbeGuest, memory: bytearray) -> None:
        assert memory[address] != value
        memory[address] = value

    return damage


def entry(table: int, size: int, page: int, index: int) -> int:
    """Address of byte `index` of the table entry of `page`."""
    return table + page // 0x1000 * size + index


ALIAS_TWO_LEVEL = entry(c.PROBE_TWO_LEVEL_PT, 4, c.PROBE_ALIAS, 1)
ALIAS_PAE = entry(c.PROBE_PAE_PT, 8, c.PROBE_ALIAS, 1)
OTHER_FRAME = c.PROBE_FRAME_TWO >> 8
RING1_CODE_RIGHTS = c.PROBE_GDT + (c.GUEST_CS & ~7) + 5

DAMAGED: list[tuple[Probe, Damage, Answer]] = [
    (probes.UNPAGED, text(HLT, b""), NO),
    (probes.TWO_LEVEL, byte(ALIAS_TWO_LEVEL, OTHER_FRAME), NO),
    (probes.PAE, byte(ALIAS_PAE, OTHER_FRAME), NO),
    (probes.PAE, byte(c.PROBE_PAE_PDPT, 0), NO),
    (probes.TWO_LEVEL_CR0, byte(ALIAS_TWO_LEVEL, OTHER_FRAME), NO),
    (probes.PAE_CR0, byte(ALIAS_PAE, OTHER_FRAME), NO),
    (probes.IRET, text(IRET, HLT), NO),
    (probes.RING1, byte(RING1_CODE_RIGHTS, 0x9B), NO),
    (probes.RING1, byte(c.PROBE_TSS + c.TSS_SS0, 0), NO),
    (probes.BUSY, text(LTR, b""), NO),
    (probes.LIMIT, byte(c.PROBE_GDT + c.PROBE_SHORT_SELECTOR + 5, 0x13), UNKNOWN),
    (probes.RESUME_FLAG, byte(c.PROBE_IDT + 5, 0x0E), UNKNOWN),
    (probes.STALE_GLOBAL, text(XOR_FRAMES, b""), UNKNOWN),
    (probes.NMI_PROBE, text(OUT_ASK, b""), NO),
    (probes.PUSH, text(b"\x1e", b"\x90"), UNKNOWN),
    (probes.SHUTDOWN, text(INT3, HLT), UNKNOWN),
    (probes.CPUID, text(b"\x0f\xa2\xcd", b"\x90\x90\xcd"), NO),
    (probes.CPUID, byte(ALIAS_PAE, OTHER_FRAME), NO),
    (probes.KICK, text(OUT_ASK, b""), NO),
    (probes.KICK, text(WRMSR, b""), NO),
    (probes.KICK, byte(c.PROBE_IDT + 8 * c.KICK_VECTOR + 5, 0x0E), NO),
    (probes.WRITE_PROTECT, byte(entry(c.PROBE_PAE_PT, 8, c.PROBE_READ_ONLY, 0), 0x63), NO),
    (probes.WRITE_PROTECT, byte(c.PROBE_READ_ONLY, 0), NO),
    (probes.NO_EXECUTE, byte(entry(c.PROBE_PAE_PT, 8, c.PROBE_NO_EXECUTE, 7), 0), NO),
]


@pytest.mark.parametrize(
    ("probe", "damage", "answer"),
    DAMAGED,
    ids=[f"{probe.number}-{i}" for i, (probe, _, _) in enumerate(DAMAGED)],
)
def test_a_damaged_guest_does_not_pass(
    probe: Probe, damage: Damage, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(guest: ProbeGuest) -> bytearray:
        memory = build(guest)
        damage(guest, memory)
        return memory

    monkeypatch.setattr(device, "build", damaged)
    kvm = LinuxKvm()
    kvm.open()
    try:
        ending = kvm.run(probe.guest, 0.5)
    finally:
        kvm.close()
    assert probe.answer(ending).answer is answer, ending.describe()


def test_every_probe_is_damaged_once() -> None:
    assert {probe.number for probe, _, _ in DAMAGED} == set(EXPECTED)


@pytest.mark.parametrize(
    ("probe", "guest"),
    [
        (probes.CPUID, replace(probes.CPUID.guest, cpuid_faulting=False)),
        (probes.NMI_PROBE, replace(probes.NMI_PROBE.guest, event=Event.NONE)),
        (probes.KICK, replace(probes.KICK.guest, event=Event.NMI)),
    ],
    ids=["CPUID not asked to fault", "no NMI sent", "no interrupt controller"],
)
def test_without_what_it_asks_for_it_fails(probe: Probe, guest: ProbeGuest) -> None:
    kvm = LinuxKvm()
    kvm.open()
    try:
        ending = kvm.run(guest, 0.5)
    finally:
        kvm.close()
    assert probe.answer(ending).answer is NO, ending.describe()


def test_a_guest_that_loops_is_stopped_and_located() -> None:
    kvm = LinuxKvm()
    kvm.open()
    try:
        ending = kvm.run(replace(probes.NMI_PROBE.guest, event=Event.NONE), 0.2)
    finally:
        kvm.close()
    assert ending.end is End.TIMED_OUT
    loop = c.PROBE_SYMBOLS["probe_nmi"] + len(OUT_ASK)
    assert loop <= ending.eip < loop + 4
