"""The lab's clock must be right on a busy host too, so its kernel is told the counter's frequency."""

import mmap

import pytest

from kvmhost.lab import qemu, tsc


def test_two_measurements_agree() -> None:
    first, second = tsc.tsc_khz(), tsc.tsc_khz()
    assert first
    assert second
    assert abs(first - second) < first / 1000


def test_the_kernel_is_told() -> None:
    argument = qemu.kernel_arguments().split()[-1]
    name, _, khz = argument.partition("=")
    assert name == "tsc_early_khz"
    assert abs(int(khz) - (tsc.tsc_khz() or 0)) < int(khz) / 1000


def test_where_code_may_not_be_made_the_kernel_measures_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(mmap, "mmap", refuse)
    assert tsc.tsc_khz() is None
    assert qemu.kernel_arguments() == qemu.KERNEL_ARGUMENTS
