"""Each exit reason becomes its own frozen class, decoded from a run page that the test fills by hand: no
KVM needed.
"""

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from kvmhost._native import ffi, lib
from kvmhost.kvm import exits
from kvmhost.kvm.decode import decode
from kvmhost.kvm.exits import (
    Exit,
    ExitApResetHold,
    ExitBusLock,
    ExitDebug,
    ExitDirtyRingFull,
    ExitException,
    ExitFailEntry,
    ExitHlt,
    ExitHypercall,
    ExitHyperv,
    ExitInternalError,
    ExitInterrupted,
    ExitIo,
    ExitIoapicEoi,
    ExitIrqWindowOpen,
    ExitMmio,
    ExitNmi,
    ExitNotify,
    ExitRdmsr,
    ExitSetTpr,
    ExitShutdown,
    ExitSystemEvent,
    ExitTprAccess,
    ExitUnknown,
    ExitUnrecognised,
    ExitWatchdog,
    ExitWrmsr,
    ExitXen,
)

# Reason by its number in KVM's ABI, what the test writes into the run page, what must come out.
CASES: list[tuple[int, dict[str, Any], Exit]] = [
    (0, {"hw": (0x1234,)}, ExitUnknown(0x1234)),
    (1, {"ex": (14, 2)}, ExitException(14, 2)),
    (3, {"hypercall": (12, [1, 2, 3, 4, 5, 6], 0, 1, 0)}, ExitHypercall(12, (1, 2, 3, 4, 5, 6), True)),
    (4, {"debug": ((1, 0, 0x1000, 0x4FF0, 0x400),)}, ExitDebug(1, 0x1000, 0x4FF0, 0x400)),
    (5, {}, ExitHlt()),
    (6, {"mmio": (0xFEE00000, b"\1\2\3\4\0\0\0\0", 4, 1)}, ExitMmio(0xFEE00000, True, 4, b"\1\2\3\4")),
    (7, {}, ExitIrqWindowOpen()),
    (8, {}, ExitShutdown()),
    (9, {"fail_entry": (0x80000021, 3)}, ExitFailEntry(0x80000021, 3)),
    (10, {}, ExitInterrupted()),
    (11, {"cr8": 5}, ExitSetTpr(5)),
    (12, {"tpr_access": (0x1000, 1, 0)}, ExitTprAccess(0x1000, True)),
    (16, {}, ExitNmi()),
    (17, {"internal": (3, 2, [0x80000B0E, 0x30])}, ExitInternalError(3, (0x80000B0E, 0x30))),
    (21, {}, ExitWatchdog()),
    (24, {"system_event": (3, 1, [7])}, ExitSystemEvent(3, (7,))),
    (26, {"eoi": (0x41,)}, ExitIoapicEoi(0x41)),
    (27, {}, ExitHyperv(0)),
    (29, {"msr": (0, bytes(7), 2, 0x1234, 0)}, ExitRdmsr(0x1234, 2)),
    (30, {"msr": (0, bytes(7), 1, 0x1234, 99)}, ExitWrmsr(0x1234, 99, 1)),
    (31, {}, ExitDirtyRingFull()),
    (32, {}, ExitApResetHold()),
    (33, {}, ExitBusLock()),
    (34, {}, ExitXen(0)),
    (37, {"notify": (1,)}, ExitNotify(True)),
]


def run_page(reason: int, **fields: Any) -> Any:
    # A page behind the structure, as KVM maps it, for the data of port exits.
    memory = ffi.new("char[]", 2 * 4096)
    page: Any = ffi.cast("struct kvm_run *", memory)
    page.exit_reason = reason
    for name, value in fields.items():
        setattr(page, name, value)
    kept.append(memory)
    return page


kept: list[Any] = []


@pytest.mark.parametrize(("reason", "fields", "expected"), CASES, ids=lambda value: type(value).__name__)
def test_each_reason_has_its_class(reason: int, fields: dict[str, Any], expected: Exit) -> None:
    assert decode(run_page(reason, **fields)) == expected


def test_every_class_is_decoded_somewhere_in_this_file() -> None:
    classes = {one for one in vars(exits).values() if isinstance(one, type) and issubclass(one, Exit)}
    covered = {type(case[2]) for case in CASES} | {ExitIo, ExitUnrecognised, Exit}
    assert classes == covered


@pytest.mark.parametrize(
    ("direction", "is_write"), [(lib.KVM_EXIT_IO_IN, False), (lib.KVM_EXIT_IO_OUT, True)]
)
def test_port_data_lies_behind_the_structure(direction: int, is_write: bool) -> None:
    page = run_page(2, io=(direction, 2, 0x3F8, 3, 4096))
    ffi.memmove(ffi.cast("char *", page) + 4096, b"abcdef", 6)
    assert decode(page) == ExitIo(0x3F8, is_write, 2, 3, b"abcdef")


def test_an_emulation_failure_carries_its_bytes() -> None:
    flags = lib.KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES
    page = run_page(17, emulation_failure=(1, 3, flags, 2, [0xCF, 0x90] + [0] * 13))
    stop = decode(page)
    assert isinstance(stop, ExitInternalError) and stop.instruction == b"\xcf\x90"
    page.emulation_failure.flags = 0
    without = decode(page)
    assert isinstance(without, ExitInternalError) and without.instruction == b""


def test_counts_from_the_kernel_are_not_believed_beyond_the_array() -> None:
    assert decode(run_page(17, internal=(4, 1000, [1] * 16))) == ExitInternalError(4, (1,) * 16)
    assert decode(run_page(24, system_event=(1, 1000, [1] * 16))) == ExitSystemEvent(1, (1,) * 16)


@pytest.mark.parametrize("reason", [13, 15, 18, 22, 28, 35, 39, 4711])
def test_reasons_of_other_machines_and_other_years_are_kept(reason: int) -> None:
    page = run_page(reason, hw=(0x1122334455667788,))
    stop = decode(page)
    assert isinstance(stop, ExitUnrecognised) and stop.reason == reason
    assert stop.payload.startswith(bytes.fromhex("8877665544332211")) and len(stop.payload) == 256


def test_exits_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        ExitMmio(0, True, 4, b"").address = 1  # type: ignore[misc]
