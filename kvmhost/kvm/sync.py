"""Registers without ioctls: KVM copies them into the run page at each exit, and back before a run.

KVM_CAP_SYNC_REGS.  Reading is free; writing marks a class as dirty, and KVM takes it over at the next run.
"""

from typing import Any, Protocol

from kvmhost._native import lib
from kvmhost.kvm.events import Events
from kvmhost.kvm.registers import Regs, Sregs


class HasRunPage(Protocol):
    """A vCPU, as far as this file cares."""

    @property
    def run_page(self) -> Any: ...


class SyncedRegisters:
    """The synchronised registers of a vCPU, made by Vcpu.sync; what was read is as of its last exit.

    >>> synced = vcpu.sync(regs=True, sregs=True)
    >>> vcpu.immediate_exit = True
    >>> vcpu.run()
    ExitInterrupted()
    >>> synced.regs() == vcpu.regs(), synced.sregs() == vcpu.sregs()
    (True, True)
    """

    def __init__(self, vcpu: HasRunPage) -> None:
        self._vcpu = vcpu

    def regs(self) -> Regs:
        """The general registers.

        >>> vcpu.sync(regs=True).regs().rip
        0
        """
        return Regs._read(lib.kvmhost_sync_regs(self._vcpu.run_page).regs)

    def sregs(self) -> Sregs:
        """Segment and control registers.

        >>> vcpu.sync(sregs=True).sregs().cr3
        0
        """
        return Sregs._read(lib.kvmhost_sync_regs(self._vcpu.run_page).sregs)

    def events(self) -> Events:
        """What is on its way into the vCPU.

        >>> vcpu.sync(events=True).events().nmi.pending
        0
        """
        return Events._read(lib.kvmhost_sync_regs(self._vcpu.run_page).events)

    def set_regs(self, regs: Regs) -> None:
        """General registers for the next run.

        >>> synced = vcpu.sync(regs=True)
        >>> synced.set_regs(Regs(rax=7, rip=0x1000))
        >>> vcpu.complete()
        >>> vcpu.regs().rax
        7
        """
        self._write("regs", lib.KVM_SYNC_X86_REGS, regs)

    def set_sregs(self, sregs: Sregs) -> None:
        """Segment and control registers for the next run.

        >>> from dataclasses import replace
        >>> synced = vcpu.sync(sregs=True)
        >>> synced.set_sregs(replace(vcpu.sregs(), cr2=0x5000))
        >>> vcpu.complete()
        >>> hex(vcpu.sregs().cr2)
        '0x5000'
        """
        self._write("sregs", lib.KVM_SYNC_X86_SREGS, sregs)

    def set_events(self, events: Events) -> None:
        """Events for the next run.

        >>> synced = vcpu.sync(events=True)
        >>> synced.set_events(vcpu.events())
        >>> vcpu.complete()
        >>> vcpu.run_page.kvm_dirty_regs
        0
        """
        self._write("events", lib.KVM_SYNC_X86_EVENTS, events)

    def _write(self, name: str, flag: int, value: Regs | Sregs | Events) -> None:
        run = self._vcpu.run_page
        value._write(getattr(lib.kvmhost_sync_regs(run), name))
        run.kvm_dirty_regs |= flag
