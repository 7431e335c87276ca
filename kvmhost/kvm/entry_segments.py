"""Rules for the segment registers, code and data as well as TR and LDTR.

Written from the Intel SDM, volume 3, chapter "VM Entries", "Checks on Guest Segment Registers".  Rules
marked with a kvm function hold only on CPUs without unrestricted guest: KVM tests the same before each
entry there (its guest-state-valid test in protected mode) and emulates a guest that breaks one, instruction
by instruction, which for IRET and INT n means not at all.  No rule of KVM's test is left out: what it asks
beyond these follows from them.
"""

from collections.abc import Callable

from kvmhost.kvm.entry_rule import CR0_PE, EntryState, Rule, granularity_broken, usable
from kvmhost.kvm.registers import Segment

_SECTION = "Checks on Guest Segment Registers"
_CODE_AND_DATA = ("cs", "ss", "ds", "es", "fs", "gs")
_DATA = ("ds", "es", "fs", "gs")
_CODE = 8  # type bit 3: a code segment
_READABLE_OR_WRITABLE = 2
_VM86_ACCESS = (3, 1, 3, 1)  # type, S, DPL, P: together access rights 0xF3


def _rpl(segment: Segment) -> int:
    return segment.selector & 3


def _ti(segment: Segment) -> bool:
    return bool(segment.selector >> 2 & 1)


def _get(state: EntryState, name: str) -> Segment:
    segment: Segment = getattr(state.sregs, name)
    return segment


def _row(
    name: str, rule: str, text: str, broken: Callable[[EntryState, Segment], bool], kvm: str = ""
) -> Rule:
    """A rule about one segment register."""
    register = {"ldt": "LDTR"}.get(name, name.upper())
    return Rule(
        f"{name}.{rule}",
        _SECTION,
        f"{register}: {text}",
        f"sregs.{name}",
        lambda state: broken(state, _get(state, name)),
        kvm,
    )


def _protected(broken: Callable[[EntryState, Segment], bool]) -> Callable[[EntryState, Segment], bool]:
    """The rule is off in virtual-8086 mode."""
    return lambda state, segment: not state.virtual_8086 and broken(state, segment)


def _protected_usable(broken: Callable[[EntryState, Segment], bool]) -> Callable[[EntryState, Segment], bool]:
    """The rule is off in virtual-8086 mode and for a null register."""
    return lambda state, segment: not state.virtual_8086 and usable(segment) and broken(state, segment)


def _cs_dpl_broken(state: EntryState, cs: Segment) -> bool:
    if cs.type in (9, 11):
        return cs.dpl != state.sregs.ss.dpl
    if cs.type in (13, 15):
        return cs.dpl > state.sregs.ss.dpl
    return cs.type == 3 and cs.dpl != 0


def _cs_types(state: EntryState) -> tuple[int, ...]:
    return (3, 9, 11, 13, 15) if state.unrestricted else (9, 11, 13, 15)


def _data_type_broken(_: EntryState, segment: Segment) -> bool:
    accessed = segment.type & 1
    unreadable = segment.type & _CODE and not segment.type & _READABLE_OR_WRITABLE
    return not accessed or bool(unreadable)


def _code_rules() -> list[Rule]:
    return [
        _row("cs", "usable", "it holds no null selector", lambda s, cs: not usable(cs), "code_segment_valid"),
        _row(
            "cs",
            "type",
            "type 9, 11, 13 or 15: accessed code (3 too with unrestricted guest)",
            _protected(lambda s, cs: cs.type not in _cs_types(s)),
            "code_segment_valid",
        ),
        _row(
            "cs",
            "dpl",
            "DPL equals that of SS; for conforming code it is at most that",
            _protected(_cs_dpl_broken),
            "code_segment_valid",
        ),
        _row("cs", "s", "S is 1: code or data", _protected(lambda s, cs: not cs.s), "code_segment_valid"),
        _row("cs", "present", "P is 1", _protected(lambda s, cs: not cs.present), "code_segment_valid"),
        _row(
            "cs",
            "db",
            "D is 0 in 64-bit mode (L is 1 in IA-32e mode)",
            _protected(lambda s, cs: s.long_mode and bool(cs.l) and bool(cs.db)),
        ),
        _row(
            "cs",
            "l",
            "L is 0 outside IA-32e mode",
            _protected(lambda s, cs: bool(cs.l) and not s.long_mode),
            "KVM_SET_SREGS",
        ),
        _row("cs", "granularity", "G fits the limit", _protected(lambda s, cs: granularity_broken(cs))),
        _row("cs", "base", "bits 63:32 of the base are 0", lambda s, cs: cs.base >> 32 != 0),
    ]


def _stack_rules() -> list[Rule]:
    return [
        _row(
            "ss",
            "rpl",
            "RPL equals that of CS (without unrestricted guest)",
            _protected(lambda s, ss: not s.unrestricted and _rpl(ss) != _rpl(s.sregs.cs)),
            "cs_ss_rpl_check",
        ),
        _row(
            "ss",
            "dpl",
            "DPL equals RPL (without unrestricted guest)",
            _protected(lambda s, ss: not s.unrestricted and ss.dpl != _rpl(ss)),
            "stack_segment_valid",
        ),
        _row(
            "ss",
            "dpl0",
            "DPL is 0 if CS has type 3 or CR0.PE is 0",
            _protected(lambda s, ss: ss.dpl != 0 and (s.sregs.cs.type == 3 or not s.sregs.cr0 & CR0_PE)),
        ),
        _row(
            "ss",
            "type",
            "type 3 or 7: accessed, writable data",
            _protected_usable(lambda s, ss: ss.type not in (3, 7)),
            "stack_segment_valid",
        ),
        *_usable_rules("ss", "stack_segment_valid"),
    ]


def _data_rules(name: str) -> list[Rule]:
    return [
        _row(
            name,
            "type",
            "accessed, and readable if it is code",
            _protected_usable(_data_type_broken),
        ),
        _row(
            name,
            "dpl",
            "DPL is at least RPL for data and non-conforming code (without unrestricted guest)",
            _protected_usable(lambda s, one: not s.unrestricted and one.type <= 11 and one.dpl < _rpl(one)),
            "data_segment_valid",
        ),
        *_usable_rules(name, "data_segment_valid"),
    ]


def _usable_rules(name: str, kvm: str) -> list[Rule]:
    """What SS, DS, ES, FS and GS have in common."""
    if name in ("fs", "gs"):
        base = _row(name, "base", "the base is canonical", lambda s, one: not s.canonical(one.base))
    else:
        base = _row(
            name, "base", "bits 63:32 of the base are 0", lambda s, one: usable(one) and one.base >> 32 != 0
        )
    return [
        _row(name, "s", "S is 1: code or data", _protected_usable(lambda s, one: not one.s), kvm),
        _row(name, "present", "P is 1", _protected_usable(lambda s, one: not one.present), kvm),
        _row(
            name, "granularity", "G fits the limit", _protected_usable(lambda s, one: granularity_broken(one))
        ),
        base,
    ]


def _vm86_rules(name: str) -> list[Rule]:
    return [
        _row(
            name,
            "vm86_base",
            "in virtual-8086 mode the base is 16 times the selector",
            lambda s, one: s.virtual_8086 and one.base != one.selector << 4,
            "rmode_segment_valid",
        ),
        _row(
            name,
            "vm86_limit",
            "in virtual-8086 mode the limit is 0xFFFF",
            lambda s, one: s.virtual_8086 and one.limit != 0xFFFF,
            "rmode_segment_valid",
        ),
        _row(
            name,
            "vm86_access",
            "in virtual-8086 mode the access rights are 0xF3",
            lambda s, one: s.virtual_8086 and (one.type, one.s, one.dpl, one.present) != _VM86_ACCESS,
            "rmode_segment_valid",
        ),
    ]


def _task_rules() -> list[Rule]:
    return [
        _row("tr", "usable", "it holds no null selector", lambda s, tr: not usable(tr), "tr_valid"),
        _row("tr", "ti", "the selector's TI is 0: the GDT", lambda s, tr: _ti(tr), "tr_valid"),
        _row(
            "tr",
            "type",
            "type 11, a busy TSS (3, a 16-bit one, outside IA-32e mode)",
            lambda s, tr: tr.type not in ((11,) if s.long_mode else (3, 11)),
            "tr_valid",
        ),
        _row("tr", "s", "S is 0: a system segment", lambda s, tr: bool(tr.s)),
        _row("tr", "present", "P is 1", lambda s, tr: not tr.present, "tr_valid"),
        _row("tr", "granularity", "G fits the limit", lambda s, tr: granularity_broken(tr)),
        _row("tr", "base", "the base is canonical", lambda s, tr: not s.canonical(tr.base)),
    ]


def _ldt_rules() -> list[Rule]:
    def row(rule: str, text: str, broken: Callable[[EntryState, Segment], bool], kvm: str = "") -> Rule:
        return _row("ldt", rule, text, lambda s, ldt: usable(ldt) and broken(s, ldt), kvm)

    return [
        row("ti", "the selector's TI is 0: the GDT", lambda s, ldt: _ti(ldt), "ldtr_valid"),
        row("type", "type 2, an LDT", lambda s, ldt: ldt.type != 2, "ldtr_valid"),
        row("s", "S is 0: a system segment", lambda s, ldt: bool(ldt.s)),
        row("present", "P is 1", lambda s, ldt: not ldt.present, "ldtr_valid"),
        row("granularity", "G fits the limit", lambda s, ldt: granularity_broken(ldt)),
        row("base", "the base is canonical", lambda s, ldt: not s.canonical(ldt.base)),
    ]


RULES: tuple[Rule, ...] = (
    *_code_rules(),
    *_stack_rules(),
    *(rule for name in _DATA for rule in _data_rules(name)),
    *_task_rules(),
    *_ldt_rules(),
    *(rule for name in _CODE_AND_DATA for rule in _vm86_rules(name)),
)
