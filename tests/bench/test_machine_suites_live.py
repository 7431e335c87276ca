"""The suites `machine` and `boot` on real KVM: a life has its parts in order, and no Guest is waited for
that will not come."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kvmhost.bench import beside, boots, guests, lives
from kvmhost.bench.benchmark import Sample, Setting
from kvmhost.bench.floor import DATA
from kvmhost.launcher.images import SHIPPED

pytestmark = pytest.mark.lab
HERE = Setting(icount=True)


def test_a_life_has_its_parts_in_order() -> None:
    with guests.timed_image() as image:
        ours = lives.whole(HERE, image)
    for told, prefix in ((lives.bare(HERE), "machine/bare-"), (ours, "machine/")):
        parts = [told[f"{prefix}{part}"] for part in ("create", "first-instruction", "destroy")]
        assert all(isinstance(part, Sample) and part.total > 0 for part in parts)
        create, first, _ = parts
        assert isinstance(create, Sample) and isinstance(first, Sample)
        assert create.total < first.total


def test_many_guests_are_told_for_one() -> None:
    with guests.timed_image() as image:
        one, three = (lives.many(HERE, image, number)(1) for number in (1, 3))
    assert (one.loops, three.loops) == (1, 3)
    assert three.counts["exits"] == 3 * one.counts["exits"]


def test_what_is_beside_a_guest_is_without_it() -> None:
    with_guest, without = beside.beside(HERE)
    assert without + (1 << 16) < with_guest < without + (16 << 20)


def test_hello_has_two_stations() -> None:
    told = boots.hello(HERE)
    first, off = told[boots.HELLO_OUTPUT], told[boots.HELLO_OFF]
    assert isinstance(first, Sample) and isinstance(off, Sample)
    assert first.total < off.total
    assert 0 < first.counts["traps-hypercall"] < off.counts["traps-hypercall"] < off.counts["exits"]


def test_a_kernel_that_is_no_linux_has_no_user_space() -> None:
    told = boots.linux(replace(HERE, kernel=SHIPPED / "hello.elf"))
    assert isinstance(told[boots.LINUX_OUTPUT], Sample)
    assert "powered off" in str(told[boots.LINUX_USER])


def test_a_guest_that_never_comes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Guest that is timed says nothing, and halts for ever."""
    monkeypatch.setattr(guests, "COUNTED_PATIENCE", 0.2)
    told = boots.linux(replace(HERE, kernel=DATA / "timed.elf"))
    assert all("timed out" in str(told[name]) for name in (boots.LINUX_OUTPUT, boots.LINUX_USER))


def test_a_file_that_is_no_kernel_is_told_of(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"not at all")
    with pytest.raises(guests.Unmeasurable, match="kernel"):
        boots.linux(replace(HERE, kernel=kernel))
