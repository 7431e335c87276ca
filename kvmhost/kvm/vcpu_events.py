"""The half of a vCPU that is about events: interrupting it, its LAPIC, and debugging what it runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kvmhost._native import ffi, lib
from kvmhost.kvm.base import ioctl, new
from kvmhost.kvm.capabilities import Cap
from kvmhost.kvm.errors import KvmError, NotReadyError
from kvmhost.kvm.vcpu_registers import VcpuRegisters

if TYPE_CHECKING:
    from kvmhost.kvm.events import Breakpoint, Events, MpState


class VcpuEvents(VcpuRegisters):
    """Interrupts, NMIs, events, multiprocessor state, LAPIC and guest debugging of a vCPU."""

    @property
    def run_page(self) -> Any:
        """The mapped struct kvm_run.

        >>> vcpu.run_page.request_interrupt_window
        0
        """
        raise NotImplementedError

    def nmi(self) -> None:
        """Send an NMI (KVM_NMI).  At most two are outstanding: one in its handler, one behind it.

        >>> vcpu.nmi()
        >>> vcpu.events().nmi.pending
        1
        """
        ioctl(self.fd, "KVM_NMI", 0)

    @property
    def ready_for_interrupt(self) -> bool:
        """Whether interrupt() would be taken at once, as the last run told.

        >>> vcpu.ready_for_interrupt
        False
        """
        run = self.run_page
        return bool(run.ready_for_interrupt_injection and run.if_flag)

    def request_interrupt_window(self, on: bool = True) -> None:
        """Have run() return ExitIrqWindowOpen as soon as the guest can take an interrupt.

        >>> vcpu.request_interrupt_window()
        """
        self.run_page.request_interrupt_window = on

    def interrupt(self, vector: int, *, force: bool = False) -> None:
        """Inject an interrupt into a vCPU without in-kernel irqchip (KVM_INTERRUPT).

        KVM takes the vector as already injected, whatever IF says; an Intel CPU then fails the entry and an
        AMD CPU delivers with interrupts off.  So this refuses with NotReadyError unless
        ready_for_interrupt; force: do it all the same.

        >>> vcpu.interrupt(0x20)
        Traceback (most recent call last):
        ...
        kvmhost.kvm.errors.NotReadyError: KVM_INTERRUPT: the guest cannot take an interrupt now ...
        """
        if not force and not self.ready_for_interrupt:
            run = self.run_page
            raise NotReadyError(
                "KVM_INTERRUPT",
                cause="the guest cannot take an interrupt now "
                f"(IF={run.if_flag}, ready_for_interrupt_injection={run.ready_for_interrupt_injection})",
                next_step="request_interrupt_window() and run until ExitIrqWindowOpen",
            )
        ioctl(self.fd, "KVM_INTERRUPT", new("struct kvm_interrupt *", {"irq": vector}))

    def events(self) -> "Events":
        """What is on its way into the vCPU (KVM_GET_VCPU_EVENTS).

        >>> vcpu.events().interrupt.injected
        False
        """
        from kvmhost.kvm.events import Events

        c = new("struct kvm_vcpu_events *")
        ioctl(self.fd, "KVM_GET_VCPU_EVENTS", c)
        return Events._read(c)

    def set_events(self, events: "Events") -> None:
        """Set what is on its way (KVM_SET_VCPU_EVENTS), the parts that events.valid names.

        >>> from dataclasses import replace
        >>> events = vcpu.events()
        >>> vcpu.set_events(replace(events, nmi=replace(events.nmi, masked=True)))
        >>> vcpu.events().nmi.masked
        True
        """
        c = new("struct kvm_vcpu_events *")
        events._write(c)
        ioctl(self.fd, "KVM_SET_VCPU_EVENTS", c)

    def mp_state(self) -> "MpState":
        """Whether the vCPU runs, is halted or waits to be started (KVM_GET_MP_STATE).

        >>> vcpu.mp_state().name
        'RUNNABLE'
        """
        from kvmhost.kvm.events import MpState

        c = new("struct kvm_mp_state *")
        ioctl(self.fd, "KVM_GET_MP_STATE", c)
        return MpState(c.mp_state)

    def set_mp_state(self, state: "MpState") -> None:
        """Make the vCPU run, halt or wait (KVM_SET_MP_STATE).  Anything but RUNNABLE needs the in-kernel
        LAPIC.

        >>> from kvmhost.kvm import MpState
        >>> vcpu.set_mp_state(MpState.RUNNABLE)
        """
        ioctl(self.fd, "KVM_SET_MP_STATE", new("struct kvm_mp_state *", {"mp_state": state}))

    def lapic(self) -> bytes:
        """The in-kernel LAPIC's registers, each 32-bit one at its offset in the LAPIC's page (KVM_GET_LAPIC).

        >>> vm.create_irqchip()
        >>> with vm.create_vcpu(1) as other:
        ...     other.lapic()[0x30]          # the version
        20
        """
        c = new("struct kvm_lapic_state *")
        ioctl(self.fd, "KVM_GET_LAPIC", c)
        return bytes(ffi.buffer(c))

    def set_lapic(self, registers: bytes) -> None:
        """Set the in-kernel LAPIC's registers, as lapic() gave them (KVM_SET_LAPIC).

        >>> vm.create_irqchip()
        >>> with vm.create_vcpu(1) as other:
        ...     other.set_lapic(other.lapic())
        """
        c = new("struct kvm_lapic_state *")
        if len(registers) != ffi.sizeof(c[0]):
            raise ValueError(f"the LAPIC's registers are {ffi.sizeof(c[0])} bytes, not {len(registers)}")
        ffi.memmove(c, registers, len(registers))
        ioctl(self.fd, "KVM_SET_LAPIC", c)

    def set_guest_debug(
        self,
        *,
        single_step: bool = False,
        breakpoints: "Sequence[Breakpoint]" = (),
        software: bool = False,
        block_interrupts: bool = False,
        inject_db: bool = False,
        inject_bp: bool = False,
    ) -> None:
        """Debug the guest from outside (KVM_SET_GUEST_DEBUG); without arguments: no more.

        single_step: ExitDebug after each instruction, by the real TF, so flags the guest pushes show it.
        breakpoints: up to four, by the real debug registers.  software: INT3 exits instead of trapping.
        block_interrupts: none is delivered while stepping.  inject_db, inject_bp: give the guest a #DB or
        #BP.

        >>> vcpu.set_guest_debug(single_step=True)
        >>> vcpu.set_guest_debug()
        """
        from kvmhost.kvm.events import dr7_for

        wanted = {
            "KVM_GUESTDBG_SINGLESTEP": single_step,
            "KVM_GUESTDBG_USE_HW_BP": bool(breakpoints),
            "KVM_GUESTDBG_USE_SW_BP": software,
            "KVM_GUESTDBG_BLOCKIRQ": block_interrupts,
            "KVM_GUESTDBG_INJECT_DB": inject_db,
            "KVM_GUESTDBG_INJECT_BP": inject_bp,
        }
        control = sum(getattr(lib, name) for name, on in wanted.items() if on)
        c = new("struct kvm_guest_debug *")
        c.control = control | lib.KVM_GUESTDBG_ENABLE if control else 0
        for place, one in enumerate(breakpoints):
            c.arch.debugreg[place] = one.linear
        if breakpoints:
            c.arch.debugreg[7] = dr7_for(tuple(breakpoints))
        self._debug_supported(c.control)
        ioctl(self.fd, "KVM_SET_GUEST_DEBUG", c)

    def _debug_supported(self, control: int) -> None:
        mask = self._vm.check_extension(Cap.SET_GUEST_DEBUG2)
        if mask and control & ~mask:
            raise KvmError(
                "KVM_SET_GUEST_DEBUG",
                cause=f"this KVM does not know the bits {control & ~mask:#x} of guest debugging",
                next_step="leave that kind of debugging out",
            )
