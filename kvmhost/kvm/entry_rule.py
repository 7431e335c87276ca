"""What a rule about guest state at VM entry is, and the state it looks at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from kvmhost.kvm.events import Events, MpState
from kvmhost.kvm.extended import DebugRegs
from kvmhost.kvm.registers import Regs, Segment, Sregs, Sregs2

CR0_PE, CR0_NE, CR0_WP = 1 << 0, 1 << 5, 1 << 16
CR0_NW, CR0_CD, CR0_PG = 1 << 29, 1 << 30, 1 << 31
CR4_PAE, CR4_LA57, CR4_PCIDE, CR4_CET = 1 << 5, 1 << 12, 1 << 17, 1 << 23
EFER_LME, EFER_LMA = 1 << 8, 1 << 10
FLAG_IF, FLAG_VM = 1 << 9, 1 << 17


@dataclass(frozen=True, slots=True)
class EntryState:
    """Everything the rules may ask about.

    unrestricted: the CPU runs guests with "unrestricted guest", so rules that are only for CPUs without it
    are off.  physical_bits: width of a physical address.

    >>> EntryState(Regs(), vcpu.sregs(), physical_bits=36).long_mode
    False
    """

    regs: Regs
    sregs: Sregs | Sregs2
    pdptes: tuple[int, ...] | None = None
    events: Events = field(default_factory=Events)
    pending_interrupt: bool = False
    debugregs: DebugRegs = field(default_factory=DebugRegs)
    msrs: Mapping[int, int] = field(default_factory=dict)
    mp_state: MpState = MpState.RUNNABLE
    unrestricted: bool = False
    physical_bits: int = 52

    @property
    def paging(self) -> bool:
        """CR0.PG."""
        return bool(self.sregs.cr0 & CR0_PG)

    @property
    def long_mode(self) -> bool:
        """IA-32e mode: EFER.LMA."""
        return bool(self.sregs.efer & EFER_LMA)

    @property
    def virtual_8086(self) -> bool:
        """RFLAGS.VM: segments follow the rules of real mode."""
        return bool(self.regs.rflags & FLAG_VM)

    @property
    def interrupt_injected(self) -> bool:
        """The entry delivers an external interrupt."""
        interrupt = self.events.interrupt
        return self.pending_interrupt or (interrupt.injected and not interrupt.soft)

    def canonical(self, address: int) -> bool:
        """Bits 63 to 47 (56 with five-level paging) are all the same."""
        top = address >> (56 if self.sregs.cr4 & CR4_LA57 else 47)
        return top in (0, (1 << 64 - (56 if self.sregs.cr4 & CR4_LA57 else 47)) - 1)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: name, the title of its section in the manual, the rule in words, what it is about, and its
    test.

    kvm: the function of KVM's own validity test that has the same rule for CPUs without unrestricted guest,
    or the ioctl that refuses it.  broken says whether a state breaks it.

    >>> from kvmhost.kvm.entry_check import RULES
    >>> RULES[0].name
    'cr0.high'
    """

    name: str
    section: str
    text: str
    subject: str
    broken: Callable[[EntryState], bool]
    kvm: str = ""

    def found(self, state: EntryState) -> str:
        """The value the rule is about, as text.

        >>> from kvmhost.kvm.entry_check import RULES
        >>> RULES[0].found(EntryState(Regs(), vcpu.sregs()))
        '0x60000010'
        """
        value = attrgetter(self.subject)(state)
        return f"{value:#x}" if type(value) is int else str(value)


def usable(segment: Segment) -> bool:
    """The register does not hold a null selector (VMX says unusable, KVM on AMD says not present).

    >>> usable(Segment(unusable=1))
    False
    """
    return not segment.unusable


def granularity_broken(segment: Segment) -> bool:
    """G must be 0 if any of limit bits 11:0 is 0, and 1 if any of bits 31:20 is 1.

    >>> granularity_broken(Segment(limit=0xFFFFFFFF, g=0)), granularity_broken(Segment(limit=0xFFFFFFFF, g=1))
    (True, False)
    """
    if segment.g:
        return segment.limit & 0xFFF != 0xFFF
    return segment.limit >> 20 != 0
