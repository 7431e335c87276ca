"""Interrupt wires of a VM: the controllers KVM emulates, the routes to them, and file descriptors that ring.

With create_irqchip the VM has two PICs, an I/O APIC, and a LAPIC for each vCPU.  A GSI is a wire; a route
says where it ends: at a controller's pin, or in a message (MSI) to a LAPIC.  An irqfd pulls a wire when an
eventfd is written, and an ioeventfd is the way back: a guest's write to an address rings it without an exit
to this program.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

from kvmhost._native import ffi, lib
from kvmhost.kvm.base import Owner, ioctl, new

_PIC = (
    *("last_irr", "irr", "imr", "isr", "priority_add", "irq_base", "read_reg_select", "poll", "special_mask"),
    *(
        "init_state",
        "auto_eoi",
        "rotate_on_auto_eoi",
        "special_fully_nested_mode",
        "init4",
        "elcr",
        "elcr_mask",
    ),
)
_PIT = (
    *("count", "latched_count", "count_latched", "status_latched", "status", "read_state", "write_state"),
    *("write_latch", "rw_mode", "mode", "bcd", "gate", "count_load_time"),
)


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


@dataclass(frozen=True, slots=True)
class PicState:
    """An 8259, by the names of struct kvm_pic_state; imr has a 1 for each line that is masked.

    >>> vm.create_irqchip()
    >>> from dataclasses import replace
    >>> vm.set_pic(Chip.PIC_MASTER, replace(vm.pic(Chip.PIC_MASTER), imr=0xFF))
    >>> vm.pic(Chip.PIC_MASTER).imr
    255
    """

    last_irr: int
    irr: int
    imr: int
    isr: int
    priority_add: int
    irq_base: int
    read_reg_select: int
    poll: int
    special_mask: int
    init_state: int
    auto_eoi: int
    rotate_on_auto_eoi: int
    special_fully_nested_mode: int
    init4: int
    elcr: int
    elcr_mask: int


@dataclass(frozen=True, slots=True)
class IoapicState:
    """The I/O APIC: its address and registers, and the 64-bit redirection entries (bit 16 of one: masked).

    >>> vm.create_irqchip()
    >>> all(entry >> 16 & 1 for entry in vm.ioapic().redirection)
    True
    """

    base_address: int
    ioregsel: int
    id: int
    irr: int
    redirection: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PitChannel:
    """One counter of the 8254; count_load_time in nanoseconds of the kernel's monotonic clock.

    >>> vm.create_irqchip()
    >>> vm.create_pit()
    >>> vm.pit().channels[2].gate
    0
    """

    count: int
    latched_count: int
    count_latched: int
    status_latched: int
    status: int
    read_state: int
    write_state: int
    write_latch: int
    rw_mode: int
    mode: int
    bcd: int
    gate: int
    count_load_time: int


@dataclass(frozen=True, slots=True)
class PitState:
    """The 8254: three channels and KVM's flags.

    >>> vm.create_irqchip()
    >>> vm.create_pit()
    >>> vm.pit() == vm.pit()
    True
    """

    channels: tuple[PitChannel, ...]
    flags: int

    @classmethod
    def _read(cls, c: Any) -> Self:
        """From a struct kvm_pit_state2."""
        return cls(tuple(PitChannel(*[getattr(one, name) for name in _PIT]) for one in c.channels), c.flags)

    def _write(self, c: Any) -> None:
        """Into a struct kvm_pit_state2."""
        for place, channel in enumerate(self.channels):
            for name in _PIT:
                setattr(c.channels[place], name, getattr(channel, name))
        c.flags = self.flags


class VmInterrupts(Owner):
    """The half of a Vm that is about interrupts."""

    def create_irqchip(self) -> None:
        """Two PICs, an I/O APIC, and a LAPIC for each vCPU to come (KVM_CREATE_IRQCHIP).  Before the first
        vCPU.

        From then on HLT does not exit, and Vcpu.interrupt is refused.

        >>> vm.create_irqchip()
        """
        ioctl(self.fd, "KVM_CREATE_IRQCHIP", 0)

    def create_pit(self, *, speaker: bool = True) -> None:
        """An 8254 timer on GSI 0 (KVM_CREATE_PIT2); needs the irqchip.  speaker: absorb port 0x61 too.

        >>> vm.create_irqchip()
        >>> vm.create_pit()
        >>> len(vm.pit().channels)
        3
        """
        config = new("struct kvm_pit_config *", {"flags": lib.KVM_PIT_SPEAKER_DUMMY * speaker})
        ioctl(self.fd, "KVM_CREATE_PIT2", config)

    def pit(self) -> PitState:
        """The timer as it is now (KVM_GET_PIT2).

        >>> vm.create_irqchip()
        >>> vm.create_pit()
        >>> vm.pit().channels[0].gate
        1
        """
        state = new("struct kvm_pit_state2 *")
        ioctl(self.fd, "KVM_GET_PIT2", state)
        return PitState._read(state)

    def set_pit(self, state: PitState) -> None:
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

    def pic(self, chip: Chip) -> PicState:
        """One PIC's registers (KVM_GET_IRQCHIP).

        >>> vm.create_irqchip()
        >>> vm.pic(Chip.PIC_SLAVE).isr
        0
        """
        raw = self._chip(chip)
        state = lib.kvmhost_pic(raw)
        return PicState(*[getattr(state, name) for name in _PIC])

    def set_pic(self, chip: Chip, state: PicState) -> None:
        """Put a PIC into a state (KVM_SET_IRQCHIP).

        >>> vm.create_irqchip()
        >>> vm.set_pic(Chip.PIC_MASTER, vm.pic(Chip.PIC_MASTER))
        """
        raw = new("struct kvm_irqchip *", {"chip_id": chip})
        c = lib.kvmhost_pic(raw)
        for name in _PIC:
            setattr(c, name, getattr(state, name))
        ioctl(self.fd, "KVM_SET_IRQCHIP", raw)

    def ioapic(self) -> IoapicState:
        """The I/O APIC's registers (KVM_GET_IRQCHIP).

        >>> vm.create_irqchip()
        >>> hex(vm.ioapic().base_address)
        '0xfec00000'
        """
        raw = self._chip(Chip.IOAPIC)
        state = lib.kvmhost_ioapic(raw)
        redirection = tuple(entry.bits for entry in state.redirtbl)
        return IoapicState(state.base_address, state.ioregsel, state.id, state.irr, redirection)

    def set_ioapic(self, state: IoapicState) -> None:
        """Put the I/O APIC into a state (KVM_SET_IRQCHIP).

        >>> vm.create_irqchip()
        >>> vm.set_ioapic(vm.ioapic())
        """
        raw = new("struct kvm_irqchip *", {"chip_id": Chip.IOAPIC})
        c = lib.kvmhost_ioapic(raw)
        c.base_address, c.ioregsel, c.id, c.irr = state.base_address, state.ioregsel, state.id, state.irr
        for place, bits in enumerate(state.redirection):
            c.redirtbl[place].bits = bits
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
