"""Would a CPU enter this guest?  The architecture's rules for guest state at VM entry, in plain Python.

An Intel CPU checks the whole state at each entry and refuses it as a whole; an AMD CPU looks at little of
it, and the lab's CPU is an AMD.  So the rules stand here as a table, and every state this project sets is
held against it: what would fail on another machine fails here, with the rule's name and section instead of
a number.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from kvmhost.kvm import entry_registers, entry_segments
from kvmhost.kvm.entry_rule import EntryState, Rule
from kvmhost.kvm.errors import KvmError
from kvmhost.kvm.events import Events, MpState
from kvmhost.kvm.extended import DebugRegs
from kvmhost.kvm.registers import Regs, Sregs, Sregs2

RULES: tuple[Rule, ...] = entry_registers.RULES + entry_segments.RULES


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that a state breaks, and the value it found.

    >>> [violation] = check(Regs(rflags=0), flat_sregs())
    >>> print(violation)
    rflags.one: bit 1 of RFLAGS is 1, but found 0x0 (Checks on Guest RIP, RFLAGS, and SSP)
    """

    rule: Rule
    found: str

    def __str__(self) -> str:
        return f"{self.rule.name}: {self.rule.text}, but found {self.found} ({self.rule.section})"


class EntryStateError(KvmError):
    """A register state that a CPU would refuse to enter; violations says by which rules.

    >>> require(check(Regs(rflags=0), flat_sregs()))
    Traceback (most recent call last):
    ...
    kvmhost.kvm.entry_check.EntryStateError: VM entry: the guest state breaks 1 rule: rflags.one: ...
    """

    def __init__(self, violations: list[Violation]) -> None:
        count = f"{len(violations)} rule{'s' if len(violations) > 1 else ''}"
        super().__init__(
            "VM entry",
            cause=f"the guest state breaks {count}: " + "; ".join(map(str, violations)),
            next_step="correct the state before it is set",
        )
        self.violations = tuple(violations)


def check(
    regs: Regs,
    sregs: Sregs | Sregs2,
    *,
    pdptes: tuple[int, ...] | None = None,
    events: Events | None = None,
    pending_interrupt: bool = False,
    debugregs: DebugRegs | None = None,
    msrs: Mapping[int, int] | None = None,
    mp_state: MpState = MpState.RUNNABLE,
    unrestricted: bool = False,
    physical_bits: int = 52,
) -> list[Violation]:
    """Every rule the state breaks, in the table's order; an empty list for a state any CPU enters.

    pdptes: the four entries in memory at CR3, under PAE paging.  pending_interrupt: KVM_INTERRUPT was called.
    msrs: those that will be set, by index.  unrestricted: leave out what only CPUs without unrestricted guest
    demand.  What is not given is taken to be right.

    >>> check(Regs(rip=0x1000), flat_sregs())
    []
    >>> [violation.rule.name for violation in check(Regs(), flat_sregs(), pending_interrupt=True)]
    ['rflags.if']
    """
    state = EntryState(
        regs,
        sregs,
        getattr(sregs, "pdptes", None) if pdptes is None else pdptes,
        events or Events(),
        pending_interrupt,
        debugregs or DebugRegs(),
        msrs or {},
        mp_state,
        unrestricted,
        physical_bits,
    )
    return [Violation(rule, rule.found(state)) for rule in RULES if rule.broken(state)]


def require(violations: list[Violation]) -> None:
    """Raise EntryStateError unless check() found nothing.

    >>> require(check(Regs(rip=0x1000), flat_sregs()))
    """
    if violations:
        raise EntryStateError(violations)
