"""/dev/kvm with ctypes and the standard library: just enough to run a probe Guest.

The doctor cannot use kvmhost.kvm, whose compiled part may be what is broken. `Device` is what a
probe needs of a KVM; `LinuxKvm` is the real one, and tests have others that behave like KVMs they
cannot have at hand.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import signal
import struct
from collections.abc import Callable, Iterator
from typing import Protocol

from kvmhost.doctor import _constants as c
from kvmhost.doctor.ending import End, Ending
from kvmhost.doctor.world import Event, ProbeGuest, build

MSR_PLATFORM_INFO, PLATFORM_INFO_CPUID_FAULTING = 0xCE, 1 << 31
MSR_MISC_FEATURES_ENABLES, MISC_FEATURES_CPUID_FAULTING = 0x140, 1
MSI_ADDRESS = 0xFEE00000
GSI = 0
MOST_CPUID_ENTRIES = 256
EFLAGS_FIXED = 2
# A lost kick (the signal came just before KVM_RUN) is made good by the next one.
ALARM_AGAIN_SECONDS = 0.05


class Device(Protocol):
    """What the doctor asks of a KVM."""

    def open(self) -> None:
        """Open it; raises OSError."""

    def close(self) -> None:
        """Give it back."""

    def api_version(self) -> int:
        """KVM_GET_API_VERSION."""

    def capability(self, number: int) -> int:
        """KVM_CHECK_EXTENSION."""

    def cpuid(self) -> dict[tuple[int, int], tuple[int, int, int, int]]:
        """KVM_GET_SUPPORTED_CPUID: (leaf, subleaf) to EAX, EBX, ECX, EDX."""

    def run(self, guest: ProbeGuest, limit: float) -> Ending:
        """Run one Guest in a VM of its own, for at most `limit` seconds."""


class CallRefusedError(Exception):
    """A KVM call failed."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name, number)
        self.name = name
        self.number = number


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


def call(fd: int, name: str, argument: int | bytearray = 0) -> int:
    """One ioctl by its name in <linux/kvm.h>; a bytearray is both what goes in and what comes out.

    fcntl.ioctl is no help: it takes no number that does not fit a signed int.
    """
    if isinstance(argument, bytearray):
        buffer = ctypes.c_char.from_buffer(argument)
        result = int(_libc.ioctl(fd, getattr(c, name), ctypes.addressof(buffer)))
    else:
        result = int(_libc.ioctl(fd, getattr(c, name), argument))
    if result < 0:
        raise CallRefusedError(name, ctypes.get_errno())
    return result


class LinuxKvm:
    """A real KVM: by its path, or on a file descriptor that is already open (and stays so)."""

    def __init__(self, path: str = "/dev/kvm", fd: int | None = None) -> None:
        self.path = path
        self.fd = -1 if fd is None else fd
        self._owned = fd is None

    def open(self) -> None:
        """See Device."""
        if self._owned:
            self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """See Device."""
        if self._owned and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def api_version(self) -> int:
        """See Device."""
        return call(self.fd, "KVM_GET_API_VERSION")

    def capability(self, number: int) -> int:
        """See Device."""
        return call(self.fd, "KVM_CHECK_EXTENSION", number)

    def _cpuid(self) -> bytearray:
        table = bytearray(c.CPUID_SIZE + MOST_CPUID_ENTRIES * c.CPUID_ENTRY_SIZE)
        struct.pack_into("=I", table, c.CPUID_COUNT, MOST_CPUID_ENTRIES)
        call(self.fd, "KVM_GET_SUPPORTED_CPUID", table)
        return table

    def cpuid(self) -> dict[tuple[int, int], tuple[int, int, int, int]]:
        """See Device."""
        table = self._cpuid()
        leaves = {}
        for i in range(_u32(table, c.CPUID_COUNT)):
            at = c.CPUID_SIZE + i * c.CPUID_ENTRY_SIZE
            where = (_u32(table, at + c.CPUID_FUNCTION), _u32(table, at + c.CPUID_INDEX))
            registers = (c.CPUID_EAX, c.CPUID_EBX, c.CPUID_ECX, c.CPUID_EDX)
            eax, ebx, ecx, edx = (_u32(table, at + register) for register in registers)
            leaves[where] = (eax, ebx, ecx, edx)
        return leaves

    def run(self, guest: ProbeGuest, limit: float) -> Ending:
        """See Device."""
        try:
            with contextlib.ExitStack() as stack:
                return _Vm(self, guest, stack).run(limit)
        except CallRefusedError as refused:
            return Ending(End.REFUSED, code=refused.number, where=refused.name)


def _u32(memory: bytearray | mmap.mmap, at: int) -> int:
    return int(struct.unpack_from("=I", memory, at)[0])


def _u64(memory: bytearray | mmap.mmap, at: int) -> int:
    return int(struct.unpack_from("=Q", memory, at)[0])


class _Vm:
    """One VM with one vCPU and one Guest in it; `stack` closes what it opened."""

    def __init__(self, kvm: LinuxKvm, guest: ProbeGuest, stack: contextlib.ExitStack) -> None:
        self.guest = guest
        self.event: Callable[[], object] = lambda: None
        self.fd = self._create(kvm.fd)
        stack.callback(os.close, self.fd)
        self._set_up(guest, stack)
        self.vcpu = call(self.fd, "KVM_CREATE_VCPU", 0)
        stack.callback(os.close, self.vcpu)
        self.page = mmap.mmap(self.vcpu, call(kvm.fd, "KVM_GET_VCPU_MMAP_SIZE"))
        stack.callback(self.page.close)
        call(self.vcpu, "KVM_SET_CPUID2", kvm._cpuid())
        self._set_registers(guest)
        if guest.event is Event.NMI:
            self.event = lambda: call(self.vcpu, "KVM_NMI")

    @staticmethod
    def _create(kvm: int) -> int:
        while True:
            try:
                return call(kvm, "KVM_CREATE_VM", 0)
            except CallRefusedError as refused:
                if refused.number != errno.EINTR:
                    raise

    def _set_up(self, guest: ProbeGuest, stack: contextlib.ExitStack) -> None:
        """All that must happen before there is a vCPU, in the order that works on every CPU."""
        call(self.fd, "KVM_SET_IDENTITY_MAP_ADDR", bytearray(struct.pack("=Q", c.KVM_IDENTITY_MAP_BASE)))
        call(self.fd, "KVM_SET_TSS_ADDR", c.KVM_TSS_BASE)
        if call(self.fd, "KVM_CHECK_EXTENSION", c.KVM_CAP_EXIT_ON_EMULATION_FAILURE) > 0:
            enable = bytearray(c.ENABLE_CAP_SIZE)
            struct.pack_into("=I", enable, c.ENABLE_CAP_CAP, c.KVM_CAP_EXIT_ON_EMULATION_FAILURE)
            struct.pack_into("=Q", enable, c.ENABLE_CAP_ARG, 1)
            call(self.fd, "KVM_ENABLE_CAP", enable)
        if guest.event is Event.KICK:
            call(self.fd, "KVM_CREATE_IRQCHIP")
            self._route_kick(stack)
        self.memory = mmap.mmap(-1, c.PROBE_MEMORY)
        self.memory[:] = bytes(build(guest))
        region = bytearray(c.REGION_SIZE)
        struct.pack_into("=Q", region, c.REGION_BYTES, c.PROBE_MEMORY)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        struct.pack_into("=Q", region, c.REGION_HOST, address)
        call(self.fd, "KVM_SET_USER_MEMORY_REGION", region)

    def _route_kick(self, stack: contextlib.ExitStack) -> None:
        """An edge MSI on the kick vector, sent by writing an eventfd: as the product does."""
        routing = bytearray(c.ROUTING_SIZE + c.ROUTE_SIZE)
        struct.pack_into("=I", routing, c.ROUTING_COUNT, 1)
        for field, value in (
            (c.ROUTE_GSI, GSI),
            (c.ROUTE_TYPE, c.KVM_IRQ_ROUTING_MSI),
            (c.ROUTE_MSI_ADDRESS, MSI_ADDRESS),
            (c.ROUTE_MSI_DATA, c.KICK_VECTOR),
        ):
            struct.pack_into("=I", routing, c.ROUTING_SIZE + field, value)
        call(self.fd, "KVM_SET_GSI_ROUTING", routing)
        bell = os.eventfd(0, os.EFD_CLOEXEC)
        stack.callback(os.close, bell)
        irqfd = bytearray(c.IRQFD_SIZE)
        struct.pack_into("=I", irqfd, c.IRQFD_FD, bell)
        struct.pack_into("=I", irqfd, c.IRQFD_GSI, GSI)
        call(self.fd, "KVM_IRQFD", irqfd)
        self.event = lambda: os.eventfd_write(bell, 1)

    def _set_registers(self, guest: ProbeGuest) -> None:
        sregs = bytearray(c.SREGS_SIZE)
        call(self.vcpu, "KVM_GET_SREGS", sregs)
        _segment(sregs, c.SREGS_CS, c.LGUEST_CS, 0xB)
        for place in (c.SREGS_DS, c.SREGS_ES, c.SREGS_FS, c.SREGS_GS, c.SREGS_SS):
            _segment(sregs, place, c.LGUEST_DS, 0x3)
        for place, base, entries in (
            (c.SREGS_GDT, c.PROBE_GDT, c.GDT_ENTRIES),
            (c.SREGS_IDT, c.PROBE_IDT, c.IDT_ENTRIES),
        ):
            struct.pack_into("=Q", sregs, place + c.DTABLE_BASE, base)
            struct.pack_into("=H", sregs, place + c.DTABLE_LIMIT, 8 * entries - 1)
        for place, value in (
            (c.SREGS_CR0, guest.cr0),
            (c.SREGS_CR3, guest.cr3),
            (c.SREGS_CR4, guest.cr4),
            (c.SREGS_EFER, guest.efer),
        ):
            struct.pack_into("=Q", sregs, place, value)
        call(self.vcpu, "KVM_SET_SREGS", sregs)
        regs = bytearray(c.REGS_SIZE)
        for place, value in (
            (c.REGS_EBX, guest.ebx),
            (c.REGS_ECX, guest.ecx),
            (c.REGS_ESP, c.PROBE_STACK_TOP),
            (c.REGS_EIP, c.PROBE_SYMBOLS[guest.entry]),
            (c.REGS_EFLAGS, EFLAGS_FIXED),
        ):
            struct.pack_into("=Q", regs, place, value)
        call(self.vcpu, "KVM_SET_REGS", regs)
        if guest.cpuid_faulting:
            self._set_msr(MSR_PLATFORM_INFO, PLATFORM_INFO_CPUID_FAULTING)
            self._set_msr(MSR_MISC_FEATURES_ENABLES, MISC_FEATURES_CPUID_FAULTING)

    def _set_msr(self, index: int, value: int) -> None:
        """KVM_SET_MSRS answers how many it wrote; one that it does not take is no error to it."""
        table = bytearray(c.MSRS_SIZE + c.MSR_ENTRY_SIZE)
        struct.pack_into("=I", table, c.MSRS_COUNT, 1)
        struct.pack_into("=I", table, c.MSRS_SIZE + c.MSR_INDEX, index)
        struct.pack_into("=Q", table, c.MSRS_SIZE + c.MSR_DATA, value)
        call(self.vcpu, "KVM_SET_MSRS", table)

    def run(self, limit: float) -> Ending:
        """Until the Guest ends, one way or another."""
        values: list[int] = []
        frame: list[int] = []
        with _alarm(limit) as over:
            while not over:
                try:
                    call(self.vcpu, "KVM_RUN")
                except CallRefusedError as refused:
                    if refused.number != errno.EINTR:
                        raise
                    continue
                port = self._port()
                if port == c.PROBE_PORT_VALUE:
                    values.append(self._said())
                elif port == c.PROBE_PORT_FAULT:
                    frame.append(self._said())
                elif port == c.PROBE_PORT_ASK:
                    self.event()
                else:
                    return self._ended(port, tuple(values), tuple(frame))
        eip, esi = self._where()
        return Ending(End.TIMED_OUT, tuple(values), tuple(frame), eip=eip, esi=esi)

    def _port(self) -> int | None:
        if _u32(self.page, c.RUN_EXIT_REASON) != c.KVM_EXIT_IO:
            return None
        return int(struct.unpack_from("=H", self.page, c.RUN_IO_PORT)[0])

    def _said(self) -> int:
        return _u32(self.page, _u64(self.page, c.RUN_IO_DATA_OFFSET))

    def _where(self) -> tuple[int, int]:
        regs = bytearray(c.REGS_SIZE)
        call(self.vcpu, "KVM_GET_REGS", regs)
        return _u64(regs, c.REGS_EIP), _u64(regs, c.REGS_ESI)

    def _ended(self, port: int | None, values: tuple[int, ...], frame: tuple[int, ...]) -> Ending:
        reason = _u32(self.page, c.RUN_EXIT_REASON)
        eip, esi = self._where()
        end, code, where = End.OTHER_EXIT, reason, ""
        if port == c.PROBE_PORT_DONE:
            end, code = End.DONE, 0
        elif reason == c.KVM_EXIT_HLT:
            end, code = End.HALTED, 0
        elif reason == c.KVM_EXIT_SHUTDOWN:
            end, code = End.SHUTDOWN, 0
        elif reason == c.KVM_EXIT_FAIL_ENTRY:
            end, code = End.FAIL_ENTRY, _u64(self.page, c.RUN_FAIL_ENTRY_REASON)
        elif reason == c.KVM_EXIT_INTERNAL_ERROR:
            end, code, where = End.INTERNAL_ERROR, _u32(self.page, c.RUN_SUBERROR), self._instruction()
        return Ending(end, values, frame, code, where, eip, esi)

    def _instruction(self) -> str:
        """The bytes KVM could not emulate, as hex, if it says so."""
        if _u32(self.page, c.RUN_EMULATION_NDATA) == 0:
            return ""
        if not _u64(self.page, c.RUN_EMULATION_FLAGS) & c.KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES:
            return ""
        size = self.page[c.RUN_EMULATION_INSN_SIZE]
        return self.page[c.RUN_EMULATION_INSN_BYTES : c.RUN_EMULATION_INSN_BYTES + size].hex()


def _segment(sregs: bytearray, place: int, selector: int, kind: int) -> None:
    """A flat 4 GiB segment of ring 0."""
    sregs[place : place + c.SEGMENT_SIZE] = bytes(c.SEGMENT_SIZE)
    struct.pack_into("=I", sregs, place + c.SEGMENT_LIMIT, 0xFFFFFFFF)
    struct.pack_into("=H", sregs, place + c.SEGMENT_SELECTOR, selector)
    for field, value in (
        (c.SEGMENT_TYPE, kind),
        (c.SEGMENT_PRESENT, 1),
        (c.SEGMENT_DB, 1),
        (c.SEGMENT_S, 1),
        (c.SEGMENT_G, 1),
    ):
        sregs[place + field] = value


@contextlib.contextmanager
def _alarm(limit: float) -> Iterator[list[int]]:
    """An initially empty list that is no longer empty after `limit` seconds; KVM_RUN is interrupted then."""
    over: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _frame: over.append(number))
    signal.setitimer(signal.ITIMER_REAL, limit, ALARM_AGAIN_SECONDS)
    try:
        yield over
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
