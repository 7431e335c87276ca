"""What a vCPU's registers hold, as frozen records: general, segment and control registers.

Field names are KVM's (struct kvm_regs, kvm_segment, kvm_sregs), and those follow the manuals.  A changed
state is a new record made by dataclasses.replace.  Each record is read from the kernel's structure and
written into it here, so nothing else has to know both.
"""

from dataclasses import dataclass
from typing import Any, Self

_GENERAL = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"),
)
_ATTRIBUTES = ("base", "limit", "selector", "type", "present", "dpl", "db", "s", "l", "g", "avl", "unusable")
SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
_CONTROL = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")


@dataclass(frozen=True, slots=True)
class Regs:
    """The general registers, 64 bits each; bit 1 of rflags is always 1.

    >>> Regs(rip=0x1000).rflags
    2
    """

    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rsp: int = 0
    rbp: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0
    rflags: int = 2

    @classmethod
    def _read(cls, c: Any) -> Self:
        """From a struct kvm_regs."""
        return cls(*[getattr(c, name) for name in _GENERAL])

    def _write(self, c: Any) -> None:
        """Into a struct kvm_regs."""
        for name in _GENERAL:
            setattr(c, name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment register with its hidden part: what the CPU cached from the descriptor.

    base and limit in bytes (limit as the CPU uses it, not in pages); type: 4 bits; s: 1 for code and data,
    0 for system; db: 32-bit; l: 64-bit code; g: the descriptor counted its limit in pages; unusable: null
    (VMX's word).

    >>> flat = Segment(selector=0x10, limit=0xFFFFFFFF, type=3, db=1, g=1)
    >>> flat.dpl, flat.present, flat.unusable
    (0, 1, 0)
    """

    base: int = 0
    limit: int = 0
    selector: int = 0
    type: int = 0
    present: int = 1
    dpl: int = 0
    db: int = 0
    s: int = 1
    l: int = 0  # noqa: E741 -- the manual's name
    g: int = 0
    avl: int = 0
    unusable: int = 0

    @classmethod
    def _read(cls, c: Any) -> Self:
        """From a struct kvm_segment."""
        return cls(*[getattr(c, name) for name in _ATTRIBUTES])

    def _write(self, c: Any) -> None:
        """Into a struct kvm_segment."""
        for name in _ATTRIBUTES:
            setattr(c, name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class Dtable:
    """GDTR or IDTR: linear base, and limit in bytes minus one.

    >>> Dtable(base=0x1000, limit=0xFF)
    Dtable(base=4096, limit=255)
    """

    base: int = 0
    limit: int = 0

    @classmethod
    def _read(cls, c: Any) -> Self:
        """From a struct kvm_dtable."""
        return cls(c.base, c.limit)

    def _write(self, c: Any) -> None:
        """Into a struct kvm_dtable."""
        c.base, c.limit = self.base, self.limit


@dataclass(frozen=True, slots=True)
class Sregs:
    """Segment, table and control registers.

    Start from Vcpu.sregs(), change with dataclasses.replace, and write back: apic_base must stay as it was
    read. interrupt_bitmap is one int of 256 bits; the bit that is set, one at most, is an interrupt KVM
    injects next.

    >>> from dataclasses import replace
    >>> sregs = vcpu.sregs()
    >>> replace(sregs, cr2=0x1234).cr2 == 0x1234
    True
    """

    cs: Segment
    ds: Segment
    es: Segment
    fs: Segment
    gs: Segment
    ss: Segment
    tr: Segment
    ldt: Segment
    gdt: Dtable
    idt: Dtable
    cr0: int
    cr2: int
    cr3: int
    cr4: int
    cr8: int
    efer: int
    apic_base: int
    interrupt_bitmap: int = 0

    @classmethod
    def _read(cls, c: Any) -> Self:
        """From a struct kvm_sregs."""
        bitmap = sum(word << 64 * place for place, word in enumerate(c.interrupt_bitmap))
        return cls(**_read_tables(c), interrupt_bitmap=bitmap)

    def _write(self, c: Any) -> None:
        """Into a struct kvm_sregs."""
        _write_tables(self, c)
        for place in range(len(c.interrupt_bitmap)):
            c.interrupt_bitmap[place] = self.interrupt_bitmap >> 64 * place & 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True)
class Sregs2:
    """Sregs that carry the four PAE page-directory-pointer entries the CPU holds (KVM_CAP_SREGS2).

    KVM_SET_SREGS loads those entries from memory; with pdptes given here it takes them as they are.  None:
    KVM holds none (paging is off, or not PAE).

    >>> if kvm.check_extension(Cap.SREGS2):
    ...     print(vcpu.sregs2().pdptes)
    None
    """

    cs: Segment
    ds: Segment
    es: Segment
    fs: Segment
    gs: Segment
    ss: Segment
    tr: Segment
    ldt: Segment
    gdt: Dtable
    idt: Dtable
    cr0: int
    cr2: int
    cr3: int
    cr4: int
    cr8: int
    efer: int
    apic_base: int
    pdptes: tuple[int, ...] | None = None

    @classmethod
    def _read(cls, c: Any, valid: int) -> Self:
        """From a struct kvm_sregs2; valid: the flag that says the PDPTEs count."""
        pdptes = tuple(c.pdptrs) if c.flags & valid else None
        return cls(**_read_tables(c), pdptes=pdptes)

    def _write(self, c: Any, valid: int) -> None:
        """Into a struct kvm_sregs2."""
        _write_tables(self, c)
        if self.pdptes is not None:
            c.flags |= valid
            c.pdptrs = self.pdptes


def _read_tables(c: Any) -> dict[str, Any]:
    found: dict[str, Any] = {name: Segment._read(getattr(c, name)) for name in SEGMENTS}
    found |= {name: Dtable._read(getattr(c, name)) for name in ("gdt", "idt")}
    return found | {name: getattr(c, name) for name in _CONTROL}


def _write_tables(sregs: Sregs | Sregs2, c: Any) -> None:
    for name in (*SEGMENTS, "gdt", "idt"):
        getattr(sregs, name)._write(getattr(c, name))
    for name in _CONTROL:
        setattr(c, name, getattr(sregs, name))
