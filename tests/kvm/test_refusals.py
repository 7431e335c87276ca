"""What the real KVM refuses, and the words it is refused in: wrong orders, things twice, things that are
not there.
"""

import errno
import mmap
import os
from collections.abc import Callable

import pytest
from kvm.guest import NO_MEMORY, MakeGuest

from kvmhost.kvm import KvmError, Vm
from kvmhost.kvm.memory import address_of

pytestmark = pytest.mark.lab


def irqchip(vm: Vm) -> None:
    vm.create_irqchip()


def vcpu(vm: Vm) -> None:
    vm.create_vcpu(0)


def irqchip_and_pit(vm: Vm) -> None:
    vm.create_irqchip()
    vm.create_pit()


def nothing(vm: Vm) -> None:
    """The Vm as it is made."""


# What is done first, what is refused then, with which errno and which words of cause and next step.
REFUSALS: dict[str, tuple[Callable[[Vm], None], Callable[[Vm], object], int, str, str]] = {
    "irqchip twice": (irqchip, irqchip, errno.EEXIST, "already has interrupt controllers", "once"),
    "irqchip after a vCPU": (
        vcpu,
        irqchip,
        errno.EINVAL,
        "a vCPU exists already",
        "before the first vCPU",
    ),
    "PIT without irqchip": (
        nothing,
        Vm.create_pit,
        errno.ENOENT,
        "no interrupt controller",
        "create_irqchip",
    ),
    "PIT twice": (irqchip_and_pit, Vm.create_pit, errno.EEXIST, "already has a PIT", "once"),
    "a wire without irqchip": (
        nothing,
        lambda vm: vm.irq_line(4, True),
        errno.ENXIO,
        "no in-kernel interrupt controller",
        "create_irqchip",
    ),
    "MSI without irqchip": (
        nothing,
        lambda vm: vm.signal_msi(0xFEE0_0000, 0x41),
        errno.EINVAL,
        "no in-kernel LAPIC",
        "create_irqchip",
    ),
    "irqfd on what is no eventfd": (
        irqchip,
        lambda vm: vm.irqfd(vm.fd, 5),
        errno.EINVAL,
        "no eventfd",
        "os.eventfd()",
    ),
    "irqfd on what is not open": (
        irqchip,
        lambda vm: vm.irqfd(9999, 5),
        errno.EBADF,
        "no open eventfd",
        "eventfd",
    ),
    "TSS above 4 GiB": (
        nothing,
        lambda vm: vm.set_tss_addr(0xFFFF_E000),
        errno.EINVAL,
        "below 4 GiB",
        "0xFFFFD000",
    ),
    "a vCPU id out of range": (
        nothing,
        lambda vm: vm.create_vcpu(1 << 20),
        errno.EINVAL,
        "the id is too large",
        "MAX_VCPU_ID",
    ),
    "LAPIC without irqchip": (
        nothing,
        lambda vm: vm.create_vcpu(0).lapic(),
        errno.EINVAL,
        "impossible",
        "documentation",
    ),
    "vector 256": (
        nothing,
        lambda vm: vm.create_vcpu(0).interrupt(256, force=True),
        errno.EINVAL,
        "only 256 vectors",
        "0 to 255",
    ),
    "a capability nobody has": (
        nothing,
        lambda vm: vm.enable_cap(9999),
        errno.EINVAL,
        "impossible",
        "documentation",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_kvm_refuses_in_words(vm: Vm, name: str) -> None:
    first, then, number, cause, next_step = REFUSALS[name]
    first(vm)
    with pytest.raises(KvmError) as caught:
        then(vm)
    assert caught.value.errno == number
    assert cause in caught.value.cause and next_step in caught.value.next_step


def test_one_eventfd_on_two_wires_is_refused(vm: Vm) -> None:
    vm.create_irqchip()
    bell = os.eventfd(0)
    try:
        vm.irqfd(bell, 5)
        with pytest.raises(KvmError, match="wired already"):
            vm.irqfd(bell, 6)
    finally:
        os.close(bell)


def test_memory_that_goes_away_under_a_slot_is_told(make_guest: MakeGuest) -> None:
    guest = make_guest("a1 00 00 20 00 f4")  # mov eax, [0x200000]; hlt
    memory = mmap.mmap(-1, 0x1000)
    guest.vm.add_memory(NO_MEMORY, 0x1000, address_of(memory, 0x1000))
    memory.close()
    with pytest.raises(KvmError, match="the host page behind a guest frame is gone") as caught:
        guest.vcpu.run()
    assert caught.value.errno == errno.EFAULT
