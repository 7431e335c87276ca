"""Interrupt wires of a VM: the controllers KVM emulates, the routes to them, and file descriptors that ring.

With create_irqchip the VM has two PICs, an I/O APIC, and a LAPIC for each vCPU.  A GSI is a wire; a route
says where it ends: at a controller's pin, or in a message (MSI) to a LAPIC.  An irqfd pulls a wire when an
eventfd is written, and an ioeventfd is the way back: a guest's write to an address rings it without an exit
to this program.
"""

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from kvmhost._native import ffi, lib
from kvmhost.kvm.base import Owner, ioctl, new
from kvmhost.kvm.errors import explain

if TYPE_CHECKING:
    from kvmhost.kvm.chips import IoapicState, PicState, PitState


class Chip(IntEnum):
    """The controllers that KVM_GET_IRQCHIP and routes know.

    >>> Chip.IOAPIC
    <Chip.IOAPIC: 2>
    """

    PIC_MASTER = lib.KVM_IRQCHIP_PIC_MASTER
    PIC_SLAVE = lib.KVM_IRQCHIP_PIC_SLAVE
    IOAPIC = lib.KVM_IRQCHIP_IOAPIC


@dataclass(frozen=True, slots=True)
class MsiRoute:
    """GSI `gsi` sends the message `data` (32 bits) to `address` (0xFEE00000 and the LAPIC's id from bit 12).

    >>> MsiRoute(gsi=5, address=0xFEE0_0000, data=0x41)      # vector 0x41, fixed, edge, to LAPIC 0
    MsiRoute(gsi=5, address=4276092928, data=65)
    """

    gsi: int
    address: int
    data: int

    def _write(self, c: Any) -> None:
        """Into a struct kvm_irq_routing_entry."""
        c.gsi, c.type = self.gsi, lib.KVM_IRQ_ROUTING_MSI
        message = lib.kvmhost_route_msi(c)
        message.address_lo, message.address_hi = self.address & 0xFFFF_FFFF, self.address >> 32
        message.data = self.data


@dataclass(frozen=True, slots=True)
class PinRoute:
    """GSI `gsi` ends at pin `pin` of `chip`.

    >>> PinRoute(gsi=4, chip=Chip.IOAPIC, pin=4).pin
    4
    """

    gsi: int
    chip: Chip
    pin: int

    def _write(self, c: Any) -> None:
        """Into a struct kvm_irq_routing_entry."""
        c.gsi, c.type = self.gsi, lib.KVM_IRQ_ROUTING_IRQCHIP
        wire = lib.kvmhost_route_pin(c)
        wire.irqchip, wire.pin = self.chip, self.pin


class VmInterrupts(Owner):
    """The half of a Vm that is about interrupts."""

    _has_irqchip = False

    def create_irqchip(self) -> None:
        """Two PICs, an I/O APIC, and a LAPIC for each vCPU to come (KVM_CREATE_IRQCHIP).  Before the first
        vCPU.

        From then on HLT does not exit, and Vcpu.interrupt is refused.

        >>> vm.create_irqchip()
        """
        ioctl(self.fd, "KVM_CREATE_IRQCHIP", 0)
        self._has_irqchip = True

    def create_pit(self, *, speaker: bool = True) -> None:
        """An 8254 timer on GSI 0 (KVM_CREATE_PIT2); needs the irqchip.  speaker: absorb port 0x61 too.

        >>> vm.create_irqchip()
        >>> vm.create_pit()
        >>> len(vm.pit().channels)
        3
        """
        if not self._has_irqchip:
            # Older kernels make one all the same, wired to nothing.
            raise explain("KVM_CREATE_PIT2", errno.ENOENT)
        config = new("struct kvm_pit_config *", {"flags": lib.KVM_PIT_SPEAKER_DUMMY * speaker})
        ioctl(self.fd, "KVM_CREATE_PIT2", config)

    def pit(self) -> "PitState":
        """The timer as it is now (KVM_GET_PIT2).

        >>> vm.create_irqchip()
        >>> vm.create_pit()
        >>> vm.pit().channels[0].gate
        1
        """
        from kvmhost.kvm.chips import PitState

        state = new("struct kvm_pit_state2 *")
        ioctl(self.fd, "KVM_GET_PIT2", state)
        return PitState._read(state)

    def set_pit(self, state: "PitState") -> None:
        """Put the timer into a state (KVM_SET_PIT2).

        >>> vm.create_irqchip()
        >>> vm.create_pit()
        >>> vm.set_pit(vm.pit())
        """
        c = new("struct kvm_pit_state2 *")
        state._write(c)
        ioctl(self.fd, "KVM_SET_PIT2", c)

    def set_pit_reinjection(self, on: bool) -> None:
        """Whether ticks that the guest missed are delivered later (KVM_REINJECT_CONTROL).

        >>> vm.create_irqchip()
        >>> vm.create_pit()
        >>> vm.set_pit_reinjection(False)
        """
        ioctl(self.fd, "KVM_REINJECT_CONTROL", new("struct kvm_reinject_control *", {"pit_reinject": on}))

    def pic(self, chip: Chip) -> "PicState":
        """One PIC's registers (KVM_GET_IRQCHIP).

        >>> vm.create_irqchip()
        >>> vm.pic(Chip.PIC_SLAVE).isr
        0
        """
        from kvmhost.kvm.chips import PicState

        raw = self._chip(chip)
        return PicState._read(lib.kvmhost_pic(raw))

    def set_pic(self, chip: Chip, state: "PicState") -> None:
        """Put a PIC into a state (KVM_SET_IRQCHIP).

        >>> vm.create_irqchip()
        >>> vm.set_pic(Chip.PIC_MASTER, vm.pic(Chip.PIC_MASTER))
        """
        raw = new("struct kvm_irqchip *", {"chip_id": chip})
        state._write(lib.kvmhost_pic(raw))
        ioctl(self.fd, "KVM_SET_IRQCHIP", raw)

    def ioapic(self) -> "IoapicState":
        """The I/O APIC's registers (KVM_GET_IRQCHIP).

        >>> vm.create_irqchip()
        >>> hex(vm.ioapic().base_address)
        '0xfec00000'
        """
        from kvmhost.kvm.chips import IoapicState

        raw = self._chip(Chip.IOAPIC)
        return IoapicState._read(lib.kvmhost_ioapic(raw))

    def set_ioapic(self, state: "IoapicState") -> None:
        """Put the I/O APIC into a state (KVM_SET_IRQCHIP).

        >>> vm.create_irqchip()
        >>> vm.set_ioapic(vm.ioapic())
        """
        raw = new("struct kvm_irqchip *", {"chip_id": Chip.IOAPIC})
        state._write(lib.kvmhost_ioapic(raw))
        ioctl(self.fd, "KVM_SET_IRQCHIP", raw)

    def _chip(self, chip: Chip) -> Any:
        raw = new("struct kvm_irqchip *", {"chip_id": chip})
        ioctl(self.fd, "KVM_GET_IRQCHIP", raw)
        return raw

    def set_routes(self, routes: Iterable[MsiRoute | PinRoute]) -> None:
        """Replace every route of the VM, the default ones too (KVM_SET_GSI_ROUTING).

        >>> vm.create_irqchip()
        >>> vm.set_routes([MsiRoute(gsi=0, address=0xFEE0_0000, data=0x41)])
        """
        listed = list(routes)
        table = new("struct kvm_irq_routing *", {"nr": len(listed), "entries": len(listed)})
        for place, route in enumerate(listed):
            route._write(ffi.addressof(table.entries, place))
        ioctl(self.fd, "KVM_SET_GSI_ROUTING", table)

    def irqfd(self, fd: int, gsi: int, *, deassign: bool = False, resample_fd: int | None = None) -> None:
        """Pull wire `gsi` each time eventfd `fd` is written (KVM_IRQFD).  The eventfd stays the caller's.

        resample_fd: for a level-triggered wire, an eventfd that rings when the guest has ended the interrupt.

        >>> import os
        >>> vm.create_irqchip()
        >>> bell = os.eventfd(0)
        >>> vm.irqfd(bell, 5)
        >>> vm.irqfd(bell, 5, deassign=True)
        >>> os.close(bell)
        """
        c = new("struct kvm_irqfd *", {"fd": fd, "gsi": gsi})
        c.flags = lib.KVM_IRQFD_FLAG_DEASSIGN * deassign
        if resample_fd is not None:
            c.flags |= lib.KVM_IRQFD_FLAG_RESAMPLE
            c.resamplefd = resample_fd
        ioctl(self.fd, "KVM_IRQFD", c)

    def ioeventfd(
        self,
        fd: int,
        address: int,
        length: int,
        *,
        pio: bool = False,
        match: int | None = None,
        deassign: bool = False,
    ) -> None:
        """Write eventfd `fd` when the guest writes `length` bytes (0: any) to `address`, without an exit.

        pio: address is a port.  match: only when this value is written.

        >>> import os
        >>> bell = os.eventfd(0)
        >>> vm.ioeventfd(bell, 0xE9, 1, pio=True)
        >>> vm.ioeventfd(bell, 0xE9, 1, pio=True, deassign=True)
        >>> os.close(bell)
        """
        c = new("struct kvm_ioeventfd *", {"fd": fd, "addr": address, "len": length})
        c.flags = lib.KVM_IOEVENTFD_FLAG_PIO * pio | lib.KVM_IOEVENTFD_FLAG_DEASSIGN * deassign
        if match is not None:
            c.flags |= lib.KVM_IOEVENTFD_FLAG_DATAMATCH
            c.datamatch = match
        ioctl(self.fd, "KVM_IOEVENTFD", c)

    def signal_msi(self, address: int, data: int) -> bool:
        """Send one message to a LAPIC now (KVM_SIGNAL_MSI): True if it was taken, False if the guest blocks
        it.

        >>> vm.create_irqchip()
        >>> with vm.create_vcpu(0):
        ...     vm.signal_msi(0xFEE0_0000, 0x41)      # no LAPIC is switched on yet
        False
        """
        c = new("struct kvm_msi *")
        c.address_lo, c.address_hi, c.data = address & 0xFFFF_FFFF, address >> 32, data
        return ioctl(self.fd, "KVM_SIGNAL_MSI", c) > 0

    def irq_line(self, gsi: int, level: bool) -> None:
        """Raise or lower wire `gsi` (KVM_IRQ_LINE).  What was raised must be lowered again.

        >>> vm.create_irqchip()
        >>> vm.irq_line(4, True)
        >>> vm.pic(Chip.PIC_MASTER).irr >> 4 & 1
        1
        >>> vm.irq_line(4, False)
        """
        ioctl(self.fd, "KVM_IRQ_LINE", new("struct kvm_irq_level *", {"irq": gsi, "level": level}))
