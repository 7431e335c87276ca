"""Fixtures of the kvm room's tests: an open Kvm, a Vm of it, and a maker of small guests."""

from collections.abc import Iterator

import pytest
from kvm.guest import Guest, MakeGuest

from kvmhost.kvm import Kvm, Vm


@pytest.fixture
def kvm() -> Iterator[Kvm]:
    with Kvm() as kvm:
        yield kvm


@pytest.fixture
def vm(kvm: Kvm) -> Iterator[Vm]:
    with kvm.create_vm() as vm:
        yield vm


@pytest.fixture
def make_guest(kvm: Kvm, vm: Vm) -> MakeGuest:
    """Make the guest of a test: its code, its handlers by vector, its first RFLAGS, with or without
    irqchip.
    """

    def make(
        code: str, handlers: dict[int, str] | None = None, *, rflags: int = 2, irqchip: bool = False
    ) -> Guest:
        if irqchip:
            vm.create_irqchip()
        guest = Guest(vm)
        guest.vcpu = vm.create_vcpu(0)
        guest.vcpu.set_cpuid(kvm.supported_cpuid())
        coded = {vector: bytes.fromhex(handler) for vector, handler in (handlers or {}).items()}
        guest.prepare(bytes.fromhex(code), coded, rflags)
        return guest

    return make
