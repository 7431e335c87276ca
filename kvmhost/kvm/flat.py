"""A state to start from: 32-bit protected mode at ring 0 with flat segments, as every CPU accepts it."""

from kvmhost.kvm.registers import Dtable, Segment, Sregs

# CR0: AM, WP, NE, ET, MP and PE, and PG on top; CR4: PAE, OSFXSR and OSXMMEXCPT.
_CR0, _CR0_PG, _CR4 = 0x5_0033, 0x8000_0000, 0x620
_FLAT = 0xFFFF_FFFF


def flat_sregs(*, cr3: int = 0, paging: bool = True, apic_base: int = 0xFEE0_0900) -> Sregs:
    """Flat 4 GiB code (selector 8) and data (16) at ring 0, a busy 32-bit TSS (24), no LDT; PAE paging from
    cr3.

    paging: off gives the same without CR0.PG.  apic_base: keep what the vCPU's own sregs say.

    >>> flat_sregs(paging=False).cs.selector
    8
    """
    code = Segment(selector=8, limit=_FLAT, type=11, db=1, g=1)
    data = Segment(selector=16, limit=_FLAT, type=3, db=1, g=1)
    return Sregs(
        cs=code,
        ds=data,
        es=data,
        fs=data,
        gs=data,
        ss=data,
        tr=Segment(selector=24, limit=0x67, type=11, s=0),
        ldt=Segment(type=2, s=0, present=0, unusable=1),
        gdt=Dtable(),
        idt=Dtable(),
        cr0=_CR0 | (_CR0_PG if paging else 0),
        cr2=0,
        cr3=cr3,
        cr4=_CR4,
        cr8=0,
        efer=0,
        apic_base=apic_base,
    )
