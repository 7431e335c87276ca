"""The half of a vCPU that is its registers: what to save, restore and change between two runs.

The order that restores a vCPU without losing anything: CPUID, XCRs and XSAVE, sregs, regs, MSRs, debug
registers, events, MP state.  After an ExitIo or ExitMmio the instruction is only finished by the next run:
Vcpu.complete() does that without running further, and until then RIP still points at it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvmhost._native import ffi, lib
from kvmhost.kvm.base import Owner, enable_cap, ioctl, new
from kvmhost.kvm.capabilities import Cap
from kvmhost.kvm.cpuid import CpuidEntry, read_vcpu_table, write_table
from kvmhost.kvm.errors import MsrError
from kvmhost.kvm.registers import Regs, Sregs, Sregs2

if TYPE_CHECKING:
    from kvmhost.kvm.extended import DebugRegs, Fpu
    from kvmhost.kvm.vm import Vm

# Intel SDM volume 1, "XSAVE Header": which components are not in their initial state, and two of its bits.
_XSTATE_BV, _X87_AND_SSE = 512, 0b11


@dataclass(frozen=True, slots=True)
class Translation:
    """Where a linear address leads under the vCPU's page tables; physical is None if nowhere.

    writeable and user are KVM's hints and no verdict on permissions.

    >>> vcpu.translate(0x5000)
    Translation(linear=20480, physical=20480, writeable=True, user=False)
    """

    linear: int
    physical: int | None
    writeable: bool
    user: bool


class VcpuRegisters(Owner):
    """Registers, model-specific registers and CPUID of a vCPU."""

    def __init__(self, vm: "Vm", fd: int) -> None:
        super().__init__(fd)
        self._vm = vm

    @property
    def vm(self) -> "Vm":
        """The machine it belongs to.

        >>> vcpu.vm is vm
        True
        """
        return self._vm

    def regs(self) -> Regs:
        """The general registers (KVM_GET_REGS).

        >>> hex(vcpu.regs().rip)
        '0xfff0'
        """
        c = new("struct kvm_regs *")
        ioctl(self.fd, "KVM_GET_REGS", c)
        return Regs._read(c)

    def set_regs(self, regs: Regs, *, check: bool = False) -> None:
        """Set the general registers (KVM_SET_REGS).  Drops exceptions pending, keeps an interrupt shadow.

        check: ask entry_check first, with the sregs the vCPU has; raises EntryStateError.

        >>> vcpu.set_regs(Regs(rax=1, rip=0x1000))
        >>> vcpu.regs().rax
        1
        """
        if check:
            self._check(regs, self.sregs())
        c = new("struct kvm_regs *")
        regs._write(c)
        ioctl(self.fd, "KVM_SET_REGS", c)

    def sregs(self) -> Sregs:
        """Segment and control registers (KVM_GET_SREGS).

        >>> hex(vcpu.sregs().cs.base)
        '0xffff0000'
        """
        c = new("struct kvm_sregs *")
        ioctl(self.fd, "KVM_GET_SREGS", c)
        return Sregs._read(c)

    def set_sregs(self, sregs: Sregs, *, check: bool = False) -> None:
        """Set segment and control registers (KVM_SET_SREGS); set_cpuid comes first, and for PAE the PDPTEs
        in memory.

        KVM looks at control registers only; wrong segments fail at the next run, and only on some CPUs.
        check: ask entry_check first, with the regs the vCPU has; raises EntryStateError.

        >>> vcpu.set_sregs(vcpu.sregs())
        """
        if check:
            self._check(self.regs(), sregs)
        c = new("struct kvm_sregs *")
        sregs._write(c)
        ioctl(self.fd, "KVM_SET_SREGS", c)

    def set_state(self, regs: Regs, sregs: Sregs, *, check: bool = True) -> None:
        """Set both at once, after entry_check looked at them together; raises EntryStateError and changes
        nothing.

        >>> vcpu.set_cpuid(kvm.supported_cpuid())
        >>> vcpu.set_state(Regs(rip=0x1000), flat_sregs(paging=False), check=False)
        >>> vcpu.set_state(Regs(rip=0x1000, rflags=0), flat_sregs())
        Traceback (most recent call last):
        ...
        kvmhost.kvm.entry_check.EntryStateError: ...
        """
        if check:
            self._check(regs, sregs)
        self.set_sregs(sregs)
        self.set_regs(regs)

    def _check(self, regs: Regs, sregs: Sregs) -> None:
        from kvmhost.kvm.entry_check import check, require

        require(check(regs, sregs))

    def sregs2(self) -> Sregs2:
        """Segment and control registers with the PAE PDPTEs the CPU holds (KVM_GET_SREGS2).

        >>> vcpu.sregs2().cr3
        0
        """
        self._vm.require(Cap.SREGS2, "KVM_GET_SREGS2")
        c = new("struct kvm_sregs2 *")
        ioctl(self.fd, "KVM_GET_SREGS2", c)
        return Sregs2._read(c, lib.KVM_SREGS2_FLAGS_PDPTRS_VALID)

    def set_sregs2(self, sregs: Sregs2) -> None:
        """Set segment and control registers, PDPTEs as given instead of from memory (KVM_SET_SREGS2).

        >>> vcpu.set_sregs2(vcpu.sregs2())
        """
        self._vm.require(Cap.SREGS2, "KVM_SET_SREGS2")
        c = new("struct kvm_sregs2 *")
        sregs._write(c, lib.KVM_SREGS2_FLAGS_PDPTRS_VALID)
        ioctl(self.fd, "KVM_SET_SREGS2", c)

    def fpu(self) -> "Fpu":
        """x87 and XMM registers (KVM_GET_FPU).

        >>> hex(vcpu.fpu().fcw)
        '0x37f'
        """
        from kvmhost.kvm.extended import Fpu

        c = new("struct kvm_fpu *")
        ioctl(self.fd, "KVM_GET_FPU", c)
        return Fpu._read(c)

    def set_fpu(self, fpu: "Fpu") -> None:
        """Set x87 and XMM registers (KVM_SET_FPU).

        On a host with XSAVE they are marked as in use first: KVM writes the values alone, and the CPU would
        load initial ones in their place.

        >>> vcpu.set_fpu(vcpu.fpu())
        """
        if self._vm.check_extension(Cap.XCRS):
            image = bytearray(self.xsave())
            image[_XSTATE_BV] |= _X87_AND_SSE
            self.set_xsave(bytes(image))
        c = new("struct kvm_fpu *")
        fpu._write(c)
        ioctl(self.fd, "KVM_SET_FPU", c)

    def xsave(self) -> bytes:
        """The whole XSAVE image, in the host's layout (KVM_GET_XSAVE2, or KVM_GET_XSAVE where there is none).

        >>> len(vcpu.xsave()) >= 4096
        True
        """
        buffer, larger = self._xsave_buffer()
        ioctl(self.fd, "KVM_GET_XSAVE2" if larger else "KVM_GET_XSAVE", buffer)
        return bytes(ffi.buffer(buffer))

    def set_xsave(self, image: bytes) -> None:
        """Set the XSAVE image, as xsave() gave it (KVM_SET_XSAVE).  Raises ValueError for one of another
        size.

        >>> vcpu.set_xsave(vcpu.xsave())
        """
        buffer, _ = self._xsave_buffer()
        if len(image) != len(ffi.buffer(buffer)):
            raise ValueError(
                f"the XSAVE image has {len(image)} bytes, this vCPU's has {len(ffi.buffer(buffer))}"
            )
        ffi.memmove(buffer, image, len(image))
        ioctl(self.fd, "KVM_SET_XSAVE", buffer)

    def _xsave_buffer(self) -> tuple[Any, bool]:
        size = self._vm.check_extension(Cap.XSAVE2)
        return new("char[]", max(size, ffi.sizeof("struct kvm_xsave"))), size > 0

    def xcrs(self) -> dict[int, int]:
        """The extended control registers, by number (KVM_GET_XCRS); XCR0 is number 0.

        >>> vcpu.xcrs().get(0, 1) & 1          # x87 is always on
        1
        """
        c = new("struct kvm_xcrs *")
        ioctl(self.fd, "KVM_GET_XCRS", c)
        return {c.xcrs[place].xcr: c.xcrs[place].value for place in range(c.nr_xcrs)}

    def set_xcrs(self, values: Mapping[int, int]) -> None:
        """Set extended control registers (KVM_SET_XCRS).

        >>> if vm.check_extension(Cap.XCRS):
        ...     vcpu.set_xcrs(vcpu.xcrs())
        """
        self._vm.require(Cap.XCRS, "KVM_SET_XCRS")
        c = new("struct kvm_xcrs *", {"nr_xcrs": len(values)})
        for place, (number, value) in enumerate(values.items()):
            c.xcrs[place].xcr, c.xcrs[place].value = number, value
        ioctl(self.fd, "KVM_SET_XCRS", c)

    def msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """Read model-specific registers (KVM_GET_MSRS).  Raises MsrError naming the first that KVM refuses.

        >>> vcpu.msrs([0x174])
        {372: 0}
        >>> vcpu.msrs([0x174, 0xDEAD])
        Traceback (most recent call last):
        ...
        kvmhost.kvm.errors.MsrError: KVM_GET_MSRS: KVM refused MSR 0xdead, entry 1 of the list; ...
        """
        c = self._msr_call("KVM_GET_MSRS", [(index, 0) for index in indices])
        return {c.entries[place].index: c.entries[place].data for place in range(c.nmsrs)}

    def set_msrs(self, values: Mapping[int, int]) -> None:
        """Write model-specific registers (KVM_SET_MSRS).  Raises MsrError naming the first that KVM
        refuses; those before it are written then.

        >>> vcpu.set_msrs({0x174: 0x60})
        >>> vcpu.msrs([0x174])
        {372: 96}
        """
        self._msr_call("KVM_SET_MSRS", list(values.items()))

    def _msr_call(self, name: str, entries: list[tuple[int, int]]) -> Any:
        c = new("struct kvm_msrs *", {"nmsrs": len(entries), "entries": len(entries)})
        for place, (index, value) in enumerate(entries):
            c.entries[place].index, c.entries[place].data = index, value
        done = ioctl(self.fd, name, c)
        if done < len(entries):
            raise MsrError(name, entries[done][0], done)
        return c

    def cpuid(self) -> tuple[CpuidEntry, ...]:
        """The CPUID table the vCPU has (KVM_GET_CPUID2).

        >>> vcpu.cpuid()
        ()
        """
        return read_vcpu_table(self.fd)

    def set_cpuid(self, entries: Iterable[CpuidEntry]) -> None:
        """Give the vCPU its CPUID (KVM_SET_CPUID2): before set_sregs and before the first run.

        A vCPU without CPUID has no features: KVM refuses most bits of CR4 then.

        >>> vcpu.set_cpuid(kvm.supported_cpuid())
        >>> vcpu.cpuid()[0].function
        0
        """
        write_table(self.fd, entries)

    def debugregs(self) -> "DebugRegs":
        """DR0 to DR3, DR6 and DR7 as the guest sees them (KVM_GET_DEBUGREGS).

        >>> hex(vcpu.debugregs().dr7)
        '0x400'
        """
        from kvmhost.kvm.extended import DebugRegs

        c = new("struct kvm_debugregs *")
        ioctl(self.fd, "KVM_GET_DEBUGREGS", c)
        return DebugRegs._read(c)

    def set_debugregs(self, debugregs: "DebugRegs") -> None:
        """Set the guest's debug registers (KVM_SET_DEBUGREGS).

        >>> vcpu.set_debugregs(vcpu.debugregs())
        """
        c = new("struct kvm_debugregs *")
        debugregs._write(c)
        ioctl(self.fd, "KVM_SET_DEBUGREGS", c)

    def translate(self, linear: int) -> Translation:
        """Where a linear address leads under the tables the vCPU has now (KVM_TRANSLATE).

        >>> vcpu.translate(0x1234).physical == 0x1234          # no paging yet
        True
        """
        c = new("struct kvm_translation *", {"linear_address": linear})
        ioctl(self.fd, "KVM_TRANSLATE", c)
        physical = c.physical_address if c.valid else None
        return Translation(linear, physical, bool(c.writeable), bool(c.usermode))

    def tsc_khz(self) -> int:
        """Frequency of the vCPU's time-stamp counter in kHz (KVM_GET_TSC_KHZ).

        >>> vcpu.tsc_khz() > 0
        True
        """
        return ioctl(self.fd, "KVM_GET_TSC_KHZ", 0)

    def enable_cap(self, cap: Cap | int, *args: int, flags: int = 0) -> None:
        """Switch a capability on for this vCPU (KVM_ENABLE_CAP).

        >>> vcpu.enable_cap(Cap.ENFORCE_PV_FEATURE_CPUID, 1)
        """
        enable_cap(self.fd, cap, args, flags)
