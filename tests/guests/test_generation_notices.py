"""The generation Guests are tests of the Host: a defect planted in it must turn the right one red."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from guests.running import HANGS_AFTER

from kvmhost import Machine
from kvmhost._native import lib
from kvmhost.host import hypercalls, interrupts, lguest_data, segments, vmcall
from kvmhost.host.paging import ShadowTables
from kvmhost.launcher.devices import page_forms
from kvmhost.launcher.devices.page_forms import Descriptor
from kvmhost.switcher import gates

pytestmark = pytest.mark.lab

Planting = Callable[[pytest.MonkeyPatch], None]


def layout(**changes: Any) -> Planting:
    """Another idea of lguest_data and its ring."""
    real = lguest_data.layout_of

    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(lguest_data, "layout_of", lambda struct: replace(real(struct), **changes))

    return plant


def swapped_arguments(patch: pytest.MonkeyPatch) -> None:
    for order, reads in list(hypercalls._ARGUMENTS.items()):

        def read(words: Any, reads: Callable[[Any], tuple[int, ...]] = reads) -> tuple[int, ...]:
            first, second, third, *rest = reads(words)
            return first, third, second, *rest

        patch.setitem(hypercalls._ARGUMENTS, order, read)


def ignored(call: int) -> Planting:
    """A hypercall that does nothing."""
    return lambda patch: patch.setitem(hypercalls.ACTIONS, call, lambda guest, *args: None)


def no_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(interrupts, "_in_no_irq_window", lambda guest: False)


def gates_of_dpl_0(patch: pytest.MonkeyPatch) -> None:
    real = segments.live_gate

    def live(blob: Any, vector: int, low: int, high: int, hooked: bool) -> gates.Entry:
        gate = real(blob, vector, low, high, hooked)
        return gate if gate == (low, high) else gates.default_gate(blob, vector)

    patch.setattr(segments, "live_gate", live)


def modules_unsearched(patch: pytest.MonkeyPatch) -> None:
    real = vmcall.VmcallRewriter.executable

    def executable(self: vmcall.VmcallRewriter, address: int, error_code: int, entry: int) -> int:
        return entry if address >= 0xF0000000 else real(self, address, error_code, entry)

    patch.setattr(vmcall.VmcallRewriter, "executable", executable)


def length_before_type(patch: pytest.MonkeyPatch) -> None:
    real = page_forms._list_form

    def swapped(device: Any, abi: Any, queues: list[bytes]) -> Descriptor:
        form = real(device, abi, queues)
        data, at = bytearray(form.data), int(lib.TLV_HEADER_BYTES)
        while at < len(data):
            size = data[at + 1]
            data[at], data[at + 1] = size, data[at]
            at += 2 + size
        return replace(form, data=bytes(data))

    patch.setattr(page_forms, "_list_form", swapped)


def set_pmd_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ShadowTables, "set_pmd", lambda self, pmd, index: None)


@pytest.mark.parametrize(
    ("name", "plant", "said"),
    [
        pytest.param("2.6.24", swapped_arguments, "unhandled trap 14", id="arguments, old order"),
        pytest.param("4.1", swapped_arguments, "unhandled trap 14", id="arguments, new order"),
        pytest.param("2.6.30", layout(entry_words=5), "unknown hypercall", id="ring entries of 20 bytes"),
        pytest.param(
            "2.6.26", layout(argument_words=(1, 2, 3)), "was done last, not", id="ring, order of arguments"
        ),
        pytest.param("2.6.34", layout(fields=frozenset()), "pgdir is 0x0", id="no pgdir"),
        pytest.param("2.6.25", ignored(lib.LHCALL_LOAD_GDT), "limit 0x0", id="LOAD_GDT"),
        pytest.param("4.1-pae", set_pmd_forgotten, "after SET_PMD", id="SET_PMD"),
        pytest.param("3.1", gates_of_dpl_0, "int3 gave vector 13", id="gates without their DPL"),
        pytest.param("4.6", gates_of_dpl_0, "ring 3 met trap 13", id="system calls that are not reflected"),
        pytest.param("2.6.31", modules_unsearched, "page fault at 0xf001", id="VMCALLs of modules"),
        pytest.param("3.1", no_window, "nested in an iret", id="the window of an iret"),
        pytest.param("4.1", no_window, "nested in an iret", id="the address of an iret"),
        pytest.param("2.6.24", length_before_type, "a console with 0 queues", id="TLV form"),
    ],
)
def test_a_planted_defect_is_seen(
    name: str, plant: Planting, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    words = "only console" if plant is length_before_type else ""
    with Machine() as machine:
        outcome = machine.load(f"generation-{name}", words).run(timeout=HANGS_AFTER)
    assert not outcome.succeeded
    assert said in outcome.reason, outcome
