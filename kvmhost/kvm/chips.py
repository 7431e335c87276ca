"""The states of the controllers KVM emulates for a whole VM: the two PICs, the I/O APIC and the PIT."""

from dataclasses import dataclass
from typing import Any, Self

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

    @classmethod
    def _read(cls, c: Any) -> Self:
        """From a struct kvm_pic_state."""
        return cls(*[getattr(c, name) for name in _PIC])

    def _write(self, c: Any) -> None:
        """Into a struct kvm_pic_state."""
        for name in _PIC:
            setattr(c, name, getattr(self, name))


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

    @classmethod
    def _read(cls, c: Any) -> Self:
        """From a struct kvm_ioapic_state."""
        return cls(c.base_address, c.ioregsel, c.id, c.irr, tuple(entry.bits for entry in c.redirtbl))

    def _write(self, c: Any) -> None:
        """Into a struct kvm_ioapic_state."""
        c.base_address, c.ioregsel, c.id, c.irr = self.base_address, self.ioregsel, self.id, self.irr
        for place, bits in enumerate(self.redirection):
            c.redirtbl[place].bits = bits


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
