"""Whoever took a descriptor or a mapping gives it back: in any order, once, and clearly when used after."""

import gc
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from kvm.guest import descriptors, run_pages, slot_bytes

from kvmhost.kvm import ClosedError, Kvm, KvmError, Vcpu, Vm, flat_sregs

pytestmark = pytest.mark.lab


def held() -> tuple[list[str], int, int]:
    """Everything open in this process, the run pages it has mapped, and the bytes its slots own."""
    return descriptors(), run_pages(), slot_bytes()


@pytest.fixture(autouse=True)
def nobody_elses() -> None:
    """What an earlier test left in a cycle of references would otherwise go away in the middle of a count."""
    gc.collect()


@contextmanager
def nothing_left() -> Iterator[None]:
    before = held()
    yield
    assert held() == before


def everything() -> tuple[Kvm, Vm, Vcpu, Vcpu]:
    kvm = Kvm()
    vm = kvm.create_vm()
    vm.add_memory(0, 0x1_0000)
    return kvm, vm, vm.create_vcpu(0), vm.create_vcpu(1)


def test_the_counting_sees_what_is_open() -> None:
    before = held()
    kvm, vm, first, second = everything()
    names, pages, size = held()
    assert len(names) - len(before[0]) == 4
    assert (pages - before[1], size - before[2]) == (2, 0x1_0000)
    for one in (first, second, vm, kvm):
        one.close()
    assert held() == before


def test_closing_in_any_order_leaks_nothing() -> None:
    for order in itertools.permutations(range(4)):
        with nothing_left():
            objects = everything()
            for place in order:
                objects[place].close()
            assert all(one.closed for one in objects), order


def test_closing_twice_is_harmless() -> None:
    with nothing_left():
        for one in reversed(everything()):
            one.close()
            one.close()


def test_closing_twice_spares_a_descriptor_that_took_the_number() -> None:
    kvm = Kvm()
    number = kvm.fd
    kvm.close()
    taken = os.open("/dev/null", os.O_RDONLY)
    assert taken == number
    kvm.close()
    os.close(taken)


def test_slots_let_their_memory_go_with_the_vm() -> None:
    with Kvm() as kvm:
        vm = kvm.create_vm()
        before = slot_bytes()
        slot = vm.add_memory(0, 64 << 20)
        assert slot_bytes() - before == 64 << 20
        vm.close()
        assert slot_bytes() == before
        with pytest.raises(ClosedError, match="MemorySlot"):
            _ = slot.address


USES: dict[str, Callable[[Kvm, Vm, Vcpu], object]] = {
    "create_vm": lambda kvm, vm, vcpu: kvm.create_vm(),
    "api_version": lambda kvm, vm, vcpu: kvm.api_version,
    "check_extension": lambda kvm, vm, vcpu: vm.check_extension(0),
    "add_memory": lambda kvm, vm, vcpu: vm.add_memory(0x10_0000, 0x1000),
    "create_vcpu": lambda kvm, vm, vcpu: vm.create_vcpu(7),
    "irq_line": lambda kvm, vm, vcpu: vm.irq_line(0, True),
    "vm with": lambda kvm, vm, vcpu: vm.__enter__(),
    "run": lambda kvm, vm, vcpu: vcpu.run(),
    "regs": lambda kvm, vm, vcpu: vcpu.regs(),
    "run_page": lambda kvm, vm, vcpu: vcpu.run_page,
    "exit": lambda kvm, vm, vcpu: vcpu.exit(),
    "immediate_exit": lambda kvm, vm, vcpu: vcpu.complete(),
    "interrupt": lambda kvm, vm, vcpu: vcpu.interrupt(3),
    "xsave": lambda kvm, vm, vcpu: vcpu.xsave(),
}


@pytest.mark.parametrize("use", USES)
def test_use_after_close_is_a_clear_error(use: str) -> None:
    kvm, vm, vcpu, other = everything()
    for one in (other, vcpu, vm, kvm):
        one.close()
    with pytest.raises(ClosedError, match="it is closed"):
        USES[use](kvm, vm, vcpu)


def test_an_error_inside_with_closes_all_the_same() -> None:
    with nothing_left(), pytest.raises(ZeroDivisionError), Kvm() as kvm, kvm.create_vm() as vm:
        vm.add_memory(0, 0x1000)
        vm.create_vcpu(0)
        _ = 1 // 0


def test_a_vcpu_that_cannot_be_mapped_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with nothing_left(), Kvm() as kvm, kvm.create_vm() as vm:
        monkeypatch.setattr(vm, "_run_size", 1 << 60)
        with pytest.raises(KvmError, match="mmap"):
            vm.create_vcpu(0)


def test_an_open_descriptor_is_adopted_and_closed() -> None:
    with nothing_left():
        fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        with Kvm(fd=fd) as kvm:
            assert kvm.fd == fd
            with kvm.create_vm() as vm:
                assert vm.fd != fd
        assert not os.path.lexists(f"/proc/self/fd/{fd}")


def test_vms_outlive_the_device() -> None:
    with Kvm() as kvm:
        cpuid = kvm.supported_cpuid()
        vm = kvm.create_vm()
    with vm, vm.create_vcpu(0) as vcpu:
        vcpu.set_cpuid(cpuid)
        vcpu.set_sregs(flat_sregs(paging=False, apic_base=vcpu.sregs().apic_base))
        assert vcpu.sregs().cs.selector == 8


def test_what_is_never_closed_says_so() -> None:
    with nothing_left(), pytest.warns(ResourceWarning, match="Kvm was never closed"):
        Kvm()


def test_a_device_that_is_no_kvm_is_refused_and_closed() -> None:
    with nothing_left(), pytest.raises(KvmError, match="this kind of fd does not know the call"):
        Kvm("/dev/null")


def test_descriptors_are_not_inherited() -> None:
    with Kvm() as kvm, kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        assert not any(os.get_inheritable(one.fd) for one in (kvm, vm, vcpu))


def test_the_second_vcpu_of_an_id_is_refused() -> None:
    with Kvm() as kvm, kvm.create_vm() as vm:
        vm.create_vcpu(3)
        with pytest.raises(KvmError, match="a vCPU of this id already"):
            vm.create_vcpu(3)
