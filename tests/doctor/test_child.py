"""Guests that never end, children that die, and nothing left behind by any of them."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from doctor.machines import AMD, BY_THE_MANUAL, FakeKvm, behaving

from kvmhost.doctor import Answer, child, examine, native_verdict
from kvmhost.doctor.ending import End, Ending
from kvmhost.doctor.probes import NMI_PROBE, PROBES, RING1
from kvmhost.doctor.world import ProbeGuest

GUESTS = [probe.guest for probe in PROBES]


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are all that is wanted


def children() -> set[int]:
    """Process numbers of the children of this process, dead ones that nobody asked about among them."""
    return {child.pid for child in psutil.Process().children()}


class Sometimes:
    """Behaves by the manual, but does `trouble` for one Guest."""

    def __init__(self, where: ProbeGuest, trouble: object) -> None:
        self.where = where
        self.trouble = trouble
        self.usual = behaving(BY_THE_MANUAL)

    def __call__(self, guest: ProbeGuest) -> Ending:
        if guest == self.where:
            assert callable(self.trouble)
            self.trouble()
        return self.usual(guest)


def hang() -> None:
    """As a KVM does that never returns from an ioctl: not even a signal handler helps."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    threading.Event().wait()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ValueError("a doctor's own mistake")


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "GRACE_SECONDS", 0.1)


@pytest.mark.parametrize(
    ("trouble", "words"), [(hang, "hung for"), (die, "died without a word"), (fail, "ValueError: a doctor's")]
)
def test_one_lost_guest_costs_only_itself(trouble: object, words: str) -> None:
    before, born_before = open_files(), children()
    # A second is plenty for a fake that answers at once, on however busy a machine.
    endings = child.run_guests(FakeKvm(Sometimes(RING1.guest, trouble)), GUESTS, 1.0)
    assert len(endings) == len(GUESTS)
    for probe, ending in zip(PROBES, endings, strict=True):
        if probe is RING1:
            assert ending.end is End.LOST
            assert words in ending.describe()
        else:
            assert ending == BY_THE_MANUAL[probe.number]
    assert open_files() == before
    assert children() <= born_before


def test_a_hung_kvm_is_reported() -> None:
    report = examine(device=FakeKvm(Sometimes(NMI_PROBE.guest, hang)), facts=AMD, limit=1.0)
    assert not report.native.ok
    assert "KVM_NMI" in report.native.reason
    assert "hung" in report.native.reason
    assert "dmesg" in report.native.next_step
    assert {probe.number for probe in report.probes if probe.answer is not Answer.YES} == {"PROBE-9"}


def test_a_kvm_that_always_hangs_is_given_up() -> None:
    born_before = children()
    tried = child.run_guests(FakeKvm(lambda guest: hang() or Ending(End.DONE)), GUESTS, 0.1)
    words = [ending.describe() for ending in tried]
    assert len(words) == len(GUESTS)
    assert [("hung for" in each, "was not started" in each) for each in words[:3]] == [
        (True, False),
        (True, False),
        (False, True),
    ]
    assert len(set(words[2:])) == 1
    assert children() <= born_before


def test_after_a_guest_that_used_up_its_time_others_get_less() -> None:
    """The limit each Guest was given comes back as its ESI."""

    class Slow(FakeKvm):
        def run(self, guest: ProbeGuest, limit: float) -> Ending:
            end = End.TIMED_OUT if guest == GUESTS[1] else End.DONE
            return Ending(end, esi=int(limit))

    assert [ending.esi for ending in child.run_guests(Slow(), GUESTS[:4], 9.0)] == [9, 9, 1, 1]


def test_a_child_that_not_even_sigkill_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    collect = os.waitpid
    monkeypatch.setattr(child, "REAP_SECONDS", 0.02)
    monkeypatch.setattr(os, "waitpid", lambda pid, options: (0, 0))
    assert native_verdict(device=FakeKvm(), facts=AMD).ok
    assert collect(-1, 0)[0] > 0


def test_every_word_crosses_the_pipe() -> None:
    full = Ending(End.INTERNAL_ERROR, (1, 2), (0xFFFFFFFF,) * 3, 1 << 63, "cf", 0x12345678, 0xFFFFFFFF)
    assert child.run_guests(FakeKvm(lambda guest: full), GUESTS[:2], 1.0) == [full, full]


def test_a_process_that_may_not_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    before = open_files()
    verdict = native_verdict(device=FakeKvm(), facts=AMD)
    assert not verdict.ok
    assert "could not be started (Resource temporarily unavailable)" in verdict.reason
    assert open_files() == before


def test_threads_do_not_disturb(tmp_path: Path) -> None:
    """Other threads, a handler for SIGALRM, SIGALRM blocked: none of it is the child's business."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    before = signal.getsignal(signal.SIGALRM)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    try:
        assert native_verdict(device=FakeKvm(), facts=replace(AMD, kernel=str(tmp_path))).ok
        assert signal.SIGALRM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        stop.set()
        thread.join()
    assert signal.getsignal(signal.SIGALRM) is before
