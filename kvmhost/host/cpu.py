"""One vCPU: its area, its kick, and one world switch.

Before each entry the state page is made to fit the Guest: all of it when another
Guest was here last or this Guest was elsewhere, else only what is flagged as
changed (abi 4.2).  FPU and SSE belong to Guests too; ring 0 saves and loads them,
because only it can without an ioctl.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from kvmhost._native import ffi, lib
from kvmhost.host import segments
from kvmhost.host.errors import CLOSED, KvmhostError, MachineBroken
from kvmhost.host.host_area import IDT_AT, SWITCHER_TEXT_AT, CpuArea, HostArea
from kvmhost.kvm import (
    CpuidEntry,
    Dtable,
    Events,
    ExitInterrupted,
    ExitIo,
    MpState,
    Regs,
    Segment,
    Sregs,
    Vcpu,
    Vm,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvmhost.host.guest import Guest

# Control registers of ring 0 (Intel SDM vol. 3, "Control Registers"; abi 1.3 says why each).
CR0: Final = 0x80050033  # PG AM WP NE ET MP PE
CR4: Final = 0x00000620  # PAE OSFXSR OSXMMEXCPT
EFER_NXE: Final = 0x800
RFLAGS_FIXED: Final = 2

# CPUID faulting (Intel SDM vol. 4): told to be there, then switched on.
MSR_PLATFORM_INFO: Final = 0xCE
PLATFORM_INFO_CPUID_FAULT: Final = 1 << 31
MSR_MISC_FEATURES_ENABLES: Final = 0x140
MISC_FEATURES_CPUID_FAULT: Final = 1

MSI_ADDRESS: Final = 0xFEE00000
FIRST_KICK_GSI: Final = 24  # the I/O APIC has the pins below


def _segment(selector: int, kind: int, *, code_or_data: bool = True) -> Segment:
    """A flat segment of ring 0 as VM entry wants it: accessed, limit and granularity in step."""
    return Segment(
        base=0, limit=0xFFFFFFFF, selector=selector, type=kind, present=1, dpl=0, db=1,
        s=int(code_or_data), l=0, g=1, avl=0, unusable=0,
    )  # fmt: skip


def _alarm_clock(cpu: Any) -> Any:
    alarm = lib.kvmhost_alarm_make(cpu)
    if alarm == ffi.NULL:
        raise KvmhostError(
            "there is no thread or no timer for a vCPU's alarm clock",
            cause=os.strerror(ffi.errno),
            next_step="allow this user more threads and open files: see ulimit -u and ulimit -n",
        )
    return alarm


class Cpu:
    """A vCPU with the Host in it, parked at the Host's OUT whenever Python looks."""

    def __init__(self, vm: Vm, host: HostArea, index: int, cpuid: Iterable[CpuidEntry]) -> None:
        self.index = index
        self.host = host
        self.area = CpuArea(host.memory, index)
        self.mailbox = self.area.mailbox
        self._attention = ffi.addressof(self.mailbox, "attention")
        self.page = self.area.state_page(host.blob)
        self.guest: Guest | None = None
        self.fpu_of: Guest | None = None
        self.fpu_ordered: Guest | None = None
        self.settled: Guest | None = None  # the Guest that nothing has to be prepared for
        self.guest_changes = 0
        self.vcpu: Vcpu = vm.create_vcpu(index)
        self.vcpu.set_cpuid(cpuid)
        self.kick_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.c: Any = ffi.new("struct kvmhost_cpu *")
        try:
            vm.irqfd(self.kick_fd, FIRST_KICK_GSI + index)
            self.alarm: Any = _alarm_clock(self.c)
        except BaseException:
            os.close(self.kick_fd)
            raise
        self.c.fd = self.vcpu.fd
        self.c.kick_fd = self.kick_fd
        self.c.run = ffi.cast("void *", self.vcpu.run_page)
        self.c.mailbox = self.mailbox
        self.c.tss = ffi.addressof(self.page.guest_tss)
        self.c.cr0 = CR0
        self._no_guest = ffi.new("uint32_t *")
        self.c.trapnum = self._no_guest

    # ---- the Host's own life ------------------------------------------------------

    def start(self) -> None:
        """Put the vCPU at the Host's first instruction and let it come to its door.

        Also after a fault at ring 0: nothing of the vCPU's old state survives.
        """
        self.host.set_up_cpu(self.area)
        self.guest = self.fpu_of = self.fpu_ordered = self.settled = None
        self.c.guest = ffi.NULL
        self.mailbox.cr0 = CR0
        self.mailbox.work = 0
        self.vcpu.set_mp_state(MpState.RUNNABLE)
        self.vcpu.set_events(Events())
        self.vcpu.set_state(self._first_regs(), self._first_sregs(), check=True)
        self.vcpu.set_msrs(
            {
                MSR_PLATFORM_INFO: PLATFORM_INFO_CPUID_FAULT,
                MSR_MISC_FEATURES_ENABLES: MISC_FEATURES_CPUID_FAULT,
            }
        )
        while isinstance(leave := self.vcpu.run(), ExitInterrupted):
            pass  # a signal: the Host is on its way all the same
        if not isinstance(leave, ExitIo) or leave.port != lib.PORT_LEAVE or not self.mailbox.initialised:
            raise MachineBroken(
                f"vCPU {self.index} did not start", cause=str(leave), next_step="run `kvmhost doctor`"
            )

    def _first_regs(self) -> Regs:
        return Regs(
            rip=self.host.symbol("host_start"),
            rsp=self.area.stack_top,
            rbp=self.area.mailbox_at,
            rflags=RFLAGS_FIXED,
        )

    def _first_sregs(self) -> Sregs:
        data = _segment(lib.HOST_DS, 3)
        tss = Segment(
            base=self.area.tss, limit=0x67, selector=lib.TSS_SELECTOR, type=11, present=1, dpl=0, db=0,
            s=0, l=0, g=0, avl=0, unusable=0,
        )  # fmt: skip
        no_ldt = Segment(
            base=0, limit=0, selector=0, type=2, present=0, dpl=0, db=0, s=0, l=0, g=0, avl=0, unusable=1,
        )  # fmt: skip
        return replace(
            self.vcpu.sregs(),
            cs=_segment(lib.HOST_CS, 11), ds=data, es=data, fs=data, gs=data, ss=data, tr=tss, ldt=no_ldt,
            gdt=Dtable(base=self.area.gdt, limit=8 * lib.GDT_ENTRIES - 1),
            idt=Dtable(base=IDT_AT, limit=8 * lib.IDT_ENTRIES - 1),
            cr0=CR0, cr2=0, cr3=self.area.pdpt, cr4=CR4, cr8=0, efer=EFER_NXE,
        )  # fmt: skip

    # ---- copy-in and the switch -----------------------------------------------------

    # [T20]
    def prepare(self, guest: Guest) -> None:
        """Make the state page, the mailbox and the FPU fit this Guest."""
        state = guest.state
        if self.guest is not guest or state.last_cpu != self.index:
            self._take_over(guest)
        if state.changed:
            segments.copy_in(self.host.blob, state, self.page, guest.hooks)
        self._prepare_fpu(guest)
        lib.kvmhost_fit(self.c)

    def _take_over(self, guest: Guest) -> None:
        """Another Guest was here, or this one was elsewhere: everything changes."""
        self.guest_changes += self.guest is not None and self.guest is not guest
        guest.moves += guest.state.last_cpu not in (lib.MAX_CPUS, self.index)
        guest.cpus_seen.add(self.index)
        segments.flag(guest.state, lib.CHANGED_ALL)
        guest.state.last_cpu = self.index
        guest.tables.map_switcher(
            SWITCHER_TEXT_AT, guest.registers_at, self.area.state_page_at, self.area.pair
        )
        self.guest = guest
        self.c.trapnum = guest.trapnum
        self.c.eax = ffi.addressof(guest.frame.words, "eax")
        self.c.guest = guest.state
        self.c.roots = guest.block + lib.GUEST_PDPT_OFFSET

    def _prepare_fpu(self, guest: Guest) -> None:
        """Order what the FPU needs.  Once it holds this Guest's state for certain, the Guest has settled."""
        mailbox = self.mailbox
        self._note_fpu()
        self.fpu_ordered = guest
        if self.fpu_of is guest:
            self.settled = guest
            return
        self.settled = None
        if self.fpu_of is not None:
            mailbox.fpu_save = self.fpu_of.fxsave_at
            mailbox.work |= lib.WORK_FPU_SAVE
        mailbox.fpu_load = guest.fxsave_at
        mailbox.work |= lib.WORK_FPU_LOAD

    def _note_fpu(self) -> None:
        """Find out whose state the FPU holds, and withdraw an order that was not carried out.

        A vCPU that is wanted elsewhere may come back before it went in.  Ring 0 then never saw the
        order: the registers are still those of the Guest before, and must not be saved as another's.
        """
        if self.mailbox.work & lib.WORK_FPU_LOAD:
            self.mailbox.work &= ~(lib.WORK_FPU_SAVE | lib.WORK_FPU_LOAD)
        else:
            self.fpu_of = self.fpu_ordered

    def enter(self, guest: Guest) -> int:
        """One stay in the Guest: a LEFT_* value, or -errno."""
        if self.settled is not guest or guest.state.changed:
            self.prepare(guest)
        return lib.kvmhost_enter(self.c)  # type: ignore[no-any-return]

    def put_down(self) -> None:
        """Save the FPU of the Guest that is here, so that it may go on elsewhere."""
        self._note_fpu()
        self.fpu_ordered = self.fpu_of
        if self.fpu_of is None:
            return
        self.mailbox.fpu_save = self.fpu_of.fxsave_at
        self.visit(lib.WORK_FPU_SAVE | lib.WORK_STAY)
        self.fpu_of = self.fpu_ordered = None

    def visit(self, work: int) -> None:
        """Let the Host do some work of the mailbox, WORK_* bits, and come back without a world switch."""
        self.settled = None
        self._note_fpu()
        self.fpu_ordered = self.fpu_of
        self.mailbox.work = work
        left = lib.kvmhost_visit(self.c)
        if left != lib.LEFT_TRAP:
            raise MachineBroken(f"vCPU {self.index} did not do the Host's work", cause=f"result {left}")

    def post(self, why: int) -> None:
        """Ask for attention, ATTENTION_* bits.  From any thread; nothing once the vCPU is closed."""
        if self.kick_fd >= 0:
            lib.kvmhost_post(self.c, why)

    def heard(self) -> None:
        """What was posted so far is looked at now, so nobody has to come out of the Guest for it again.

        Whoever posts has said before what there is to see, so nothing that comes later is lost.
        """
        lib.kvmhost_clear_bits(self._attention, lib.ATTENTION_EVENT)

    def look_again(self, nanoseconds: int) -> None:
        """Ask for attention later: something is due that cannot be done now."""
        lib.kvmhost_alarm_look(self.alarm, time.monotonic_ns() + nanoseconds)

    def ring(self, irqs: Any, when: int) -> int:
        """Raise interrupt 0 of a Guest that is here at `when`, nanoseconds of time.monotonic_ns(); 0: never.

        irqs: cdata address of its irqs_pending.  What was ordered before is forgotten; returns when that
        would have come, 0 if it came or never was.
        """
        return lib.kvmhost_alarm_ring(self.alarm, irqs, when)  # type: ignore[no-any-return]

    def settle(self) -> None:
        """Complete the Host's OUT, so that the registers can be read or set.

        After an OUT exit RIP still points at the instruction; KVM finishes it on the next KVM_RUN,
        which immediate_exit ends before anything else is executed.
        """
        self.vcpu.complete()

    def forget_memory(self) -> None:
        """The memory is about to go: what pointed into it must not be followed any more."""
        self.mailbox = self.page = self.area = self._attention = CLOSED  # type: ignore[assignment]

    def close(self) -> None:
        """Free the vCPU, its alarm clock and its eventfd."""
        kick_fd, self.kick_fd = self.kick_fd, -1
        alarm, self.alarm = self.alarm, ffi.NULL
        if alarm != ffi.NULL:
            lib.kvmhost_alarm_free(alarm)
        self.vcpu.close()
        if kick_fd >= 0:
            os.close(kick_fd)
