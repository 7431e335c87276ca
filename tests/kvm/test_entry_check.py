"""The checker of guest state at VM entry: a good state passes, and each rule alone rejects one planted
violation.
"""

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kvmhost
from kvmhost.kvm import (
    DebugRegs,
    Dtable,
    EntryStateError,
    Events,
    ExceptionEvent,
    InterruptEvent,
    MpState,
    NmiEvent,
    Regs,
    Segment,
    Shadow,
    Sregs,
    flat_sregs,
)
from kvmhost.kvm.entry_check import RULES, check, require

# The Host's own state: 32-bit, PAE paging, ring 0.
GOOD = flat_sregs(cr3=0x1000)
GOOD_REGS = Regs(rip=0x10_0000, rsp=0x9000, rflags=0x202)
GOOD_PDPTES = (0x2001, 0x3001, 0, 0)
LDT = Segment(selector=0x20, base=0x5000, limit=0x17, type=2, s=0)
VM86_SEGMENT = Segment(selector=0x123, base=0x1230, limit=0xFFFF, type=3, dpl=3)

# One violation: keyword arguments that replace those of the good call.
Planted = dict[str, Any]


def sregs(**changes: Any) -> Planted:
    return {"sregs": replace(GOOD, **changes)}


def segment(name: str, **changes: Any) -> Planted:
    return sregs(**{name: replace(getattr(GOOD, name), **changes)})


def ldt(**changes: Any) -> Planted:
    return sregs(ldt=replace(LDT, **changes))


def regs(**changes: Any) -> Planted:
    return {"regs": replace(GOOD_REGS, **changes)}


def shadow(value: Shadow) -> Events:
    return Events(interrupt=InterruptEvent(shadow=value))


def long_mode(**changes: Any) -> Sregs:
    """A good 64-bit state, with changes."""
    code = replace(GOOD.cs, l=1, db=0)
    return replace(GOOD, **{"cs": code, "efer": 0xD00, **changes})


def vm86(name: str = "", **changes: Any) -> Planted:
    """A good virtual-8086 state; the segment `name` changed."""
    six: dict[str, Any] = dict.fromkeys(("cs", "ss", "ds", "es", "fs", "gs"), VM86_SEGMENT)
    if name:
        six[name] = replace(VM86_SEGMENT, **changes)
    return {"sregs": replace(GOOD, **six), "regs": replace(GOOD_REGS, rflags=0x2_0202)}


def both(**changes: Any) -> Planted:
    """SS and CS changed alike, so that only what concerns SS alone is broken."""
    return sregs(ss=replace(GOOD.ss, **changes), cs=replace(GOOD.cs, **changes))


def data_segment(name: str) -> dict[str, Planted]:
    base = 1 << 47 if name in ("fs", "gs") else 1 << 32
    return {
        f"{name}.type": segment(name, type=2),
        f"{name}.dpl": segment(name, selector=0x13, dpl=0),
        f"{name}.s": segment(name, s=0),
        f"{name}.present": segment(name, present=0),
        f"{name}.granularity": segment(name, g=0),
        f"{name}.base": segment(name, base=base),
    }


def vm86_segment(name: str) -> dict[str, Planted]:
    return {
        f"{name}.vm86_base": vm86(name, base=0x1240),
        f"{name}.vm86_limit": vm86(name, limit=0xFFFE),
        f"{name}.vm86_access": vm86(name, dpl=0),
    }


PLANTED: dict[str, Planted] = {
    "cr0.high": sregs(cr0=GOOD.cr0 | 1 << 32),
    "cr0.ne": sregs(cr0=GOOD.cr0 & ~(1 << 5)),
    "cr0.pg": sregs(cr0=GOOD.cr0 & ~(1 << 31)),
    "cr0.pg_pe": sregs(cr0=GOOD.cr0 & ~1),
    "cr0.nw_cd": sregs(cr0=GOOD.cr0 | 1 << 29),
    "cr3.width": sregs(cr3=1 << 36),
    "cr4.reserved": sregs(cr4=GOOD.cr4 | 1 << 13),
    "cr4.pae": {"sregs": long_mode(cr4=GOOD.cr4 & ~(1 << 5))},
    "cr4.pcide": sregs(cr4=GOOD.cr4 | 1 << 17),
    "cr4.cet": sregs(cr4=GOOD.cr4 | 1 << 23, cr0=GOOD.cr0 & ~(1 << 16)),
    "dr7.high": {"debugregs": DebugRegs(dr7=1 << 32 | 0x400)},
    "dr6.high": {"debugregs": DebugRegs(dr6=1 << 32 | 0xFFFF0FF0)},
    "efer.reserved": sregs(efer=2),
    "efer.lma": sregs(efer=1 << 8),
    "sysenter.canonical": {"msrs": {0x176: 1 << 47}},
    "pat.types": {"msrs": {0x277: 0x0007_0406_0007_0206}},
    "gdtr.base": sregs(gdt=Dtable(base=1 << 47)),
    "gdtr.limit": sregs(gdt=Dtable(limit=1 << 16)),
    "idtr.base": sregs(idt=Dtable(base=1 << 47)),
    "idtr.limit": sregs(idt=Dtable(limit=1 << 16)),
    "rip.width": regs(rip=1 << 32),
    "rflags.one": regs(rflags=0x200),
    "rflags.zero": regs(rflags=0x222),
    "rflags.vm": {"sregs": replace(vm86()["sregs"], efer=0xD00), "regs": replace(GOOD_REGS, rflags=0x2_0202)},
    "rflags.if": {"pending_interrupt": True, **regs(rflags=2)},
    "activity.hlt": {
        "mp_state": MpState.HALTED,
        **sregs(ss=replace(GOOD.ss, dpl=1, selector=17), cs=replace(GOOD.cs, dpl=1, selector=9)),
    },
    "activity.shadow": {"mp_state": MpState.HALTED, "events": shadow(Shadow.STI)},
    "shadow.both": {"events": shadow(Shadow.STI | Shadow.MOV_SS)},
    "shadow.sti": {"events": shadow(Shadow.STI), **regs(rflags=2)},
    "shadow.interrupt": {
        "events": Events(interrupt=InterruptEvent(injected=True, vector=0x20, shadow=Shadow.STI)),
    },
    "shadow.nmi": {
        "events": Events(interrupt=InterruptEvent(shadow=Shadow.MOV_SS), nmi=NmiEvent(injected=True)),
    },
    "event.exception": {"events": Events(exception=ExceptionEvent(pending=True, vector=2))},
    "pdpte.reserved": {"pdptes": (0x2003, 0, 0, 0)},
    "cs.usable": segment("cs", unusable=1),
    "cs.type": segment("cs", type=10),
    "cs.dpl": segment("cs", dpl=1),
    "cs.s": segment("cs", s=0),
    "cs.present": segment("cs", present=0),
    "cs.db": {"sregs": long_mode(cs=replace(GOOD.cs, l=1, db=1))},
    "cs.l": segment("cs", l=1),
    "cs.granularity": segment("cs", limit=0xFFFF_F000),
    "cs.base": segment("cs", base=1 << 32),
    "ss.rpl": segment("cs", selector=9),
    "ss.dpl": both(dpl=1),
    "ss.dpl0": {
        "unrestricted": True,
        **sregs(ss=replace(GOOD.ss, dpl=1), cs=replace(GOOD.cs, type=3)),
    },
    "ss.type": segment("ss", type=1),
    "ss.s": segment("ss", s=0),
    "ss.present": segment("ss", present=0),
    "ss.granularity": segment("ss", g=0),
    "ss.base": segment("ss", base=1 << 32),
    **data_segment("ds"),
    **data_segment("es"),
    **data_segment("fs"),
    **data_segment("gs"),
    "tr.usable": segment("tr", unusable=1),
    "tr.ti": segment("tr", selector=0x1C),
    "tr.type": segment("tr", type=9),
    "tr.s": segment("tr", s=1),
    "tr.present": segment("tr", present=0),
    "tr.granularity": segment("tr", g=1),
    "tr.base": segment("tr", base=1 << 47),
    "ldt.ti": ldt(selector=0x24),
    "ldt.type": ldt(type=11),
    "ldt.s": ldt(s=1),
    "ldt.present": ldt(present=0),
    "ldt.granularity": ldt(g=1),
    "ldt.base": ldt(base=1 << 47),
    **vm86_segment("cs"),
    **vm86_segment("ss"),
    **vm86_segment("ds"),
    **vm86_segment("es"),
    **vm86_segment("fs"),
    **vm86_segment("gs"),
}

GOOD_CALL: Planted = {"regs": GOOD_REGS, "sregs": GOOD, "pdptes": GOOD_PDPTES, "physical_bits": 36}


def broken_rules(planted: Planted) -> list[str]:
    return [violation.rule.name for violation in check(**GOOD_CALL | planted)]


def test_a_32_bit_paged_ring_0_state_passes() -> None:
    assert broken_rules({}) == []


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param({"sregs": long_mode()}, id="64-bit"),
        pytest.param({"sregs": long_mode(), "regs": Regs(rip=0xFFFF_8000_0000_0000)}, id="64-bit high half"),
        pytest.param(vm86(), id="virtual-8086"),
        pytest.param(ldt(), id="with an LDT"),
        pytest.param({"unrestricted": True, **sregs(cr0=0x33)}, id="unpaged, with unrestricted guest"),
        pytest.param(
            {"unrestricted": True, **segment("ds", selector=0x13)}, id="DPL below RPL, unrestricted"
        ),
        pytest.param(segment("ds", unusable=1, present=0, type=0, limit=0), id="null data segment"),
        pytest.param(segment("tr", type=3), id="16-bit TSS"),
        pytest.param(both(dpl=1, selector=0x11), id="ring 1"),
        pytest.param(segment("cs", type=15), id="conforming code"),
        pytest.param({"events": shadow(Shadow.STI)}, id="after STI"),
        pytest.param({"pending_interrupt": True}, id="an interrupt with IF set"),
        pytest.param(
            {"events": Events(nmi=NmiEvent(injected=True)), **regs(rflags=2)}, id="an NMI with IF clear"
        ),
        pytest.param({"pdptes": (0x0, 0x1E6, 0, 0)}, id="reserved bits of absent PDPTEs"),
    ],
)
def test_other_good_states_pass(planted: Planted) -> None:
    assert broken_rules(planted) == []


@pytest.mark.parametrize("name", PLANTED)
def test_each_rule_alone_rejects_its_planted_violation(name: str) -> None:
    assert broken_rules(PLANTED[name]) == [name]


def test_every_rule_has_a_planted_violation() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert set(PLANTED) == set(names)


@pytest.mark.parametrize("function", ["code_segment_valid", "stack_segment_valid", "data_segment_valid"])
def test_the_rules_of_kvms_own_validity_test_are_marked(function: str) -> None:
    assert [rule for rule in RULES if rule.kvm == function]


def kvm_guest_state_valid(state: Sregs) -> bool:
    """KVM's test for CPUs without unrestricted guest, in protected mode, written down from its description in
    section 3.1 of the catalogue: an oracle that shares no code with the table."""

    def rpl(one: Segment) -> int:
        return one.selector & 3

    def data_ok(one: Segment) -> bool:
        conforming_code = one.type & 0b1100 == 0b1100
        return bool(one.unusable or (one.s and one.present and (conforming_code or one.dpl >= rpl(one))))

    cs, ss = state.cs, state.ss
    cs_dpl = cs.dpl <= rpl(cs) if cs.type & 4 else cs.dpl == rpl(cs)
    cs_ok = not cs.unusable and cs.type & 0b1001 == 0b1001 and cs.s and cs_dpl and cs.present
    ss_ok = ss.unusable or (ss.type in (3, 7) and ss.s and ss.dpl == rpl(ss) and ss.present)
    tr, table = state.tr, state.ldt
    tr_ok = not tr.unusable and not tr.selector & 4 and tr.type in (3, 11) and tr.present
    ldt_ok = table.unusable or (not table.selector & 4 and table.type == 2 and table.present)
    datas = all(data_ok(one) for one in (state.ds, state.es, state.fs, state.gs))
    return bool(rpl(cs) == rpl(ss) and cs_ok and ss_ok and datas and tr_ok and ldt_ok)


def test_what_passes_here_passes_kvms_validity_test() -> None:
    """Random segment states near the good one: whenever the table is silent, KVM's test must agree."""
    from hypothesis import given, settings
    from hypothesis import strategies as st

    attributes = st.fixed_dictionaries(
        {},
        optional={
            "selector": st.integers(0, 0x2F),
            "type": st.integers(0, 15),
            "dpl": st.integers(0, 3),
            "s": st.integers(0, 1),
            "present": st.integers(0, 1),
            "unusable": st.integers(0, 1),
        },
    )
    seen: dict[bool, int] = {True: 0, False: 0}

    @settings(max_examples=400, deadline=None, derandomize=True, database=None)
    @given(
        st.dictionaries(
            st.sampled_from(("cs", "ss", "ds", "es", "fs", "gs", "tr", "ldt")), attributes, max_size=2
        )
    )
    def agree(changes: dict[str, dict[str, int]]) -> None:
        state = replace(GOOD, **{name: replace(getattr(GOOD, name), **new) for name, new in changes.items()})
        silent = not check(GOOD_REGS, state)
        seen[silent] += 1
        assert not silent or kvm_guest_state_valid(state)

    agree()
    assert min(seen.values()) > 20


def test_require_names_every_rule_and_its_section() -> None:
    violations = check(Regs(rflags=0), replace(GOOD, tr=replace(GOOD.tr, type=9)))
    with pytest.raises(EntryStateError) as caught:
        require(violations)
    text = str(caught.value)
    assert "rflags.one" in text and "tr.type" in text
    assert "Checks on Guest Segment Registers" in text
    assert caught.value.violations == tuple(violations)


SETTERS_CHECK_BY_DEFAULT = {"set_regs": False, "set_sregs": False, "set_sregs2": False, "set_state": True}


def unchecked_calls(source: str) -> list[str]:
    """Calls in a module that set a register state without the checker."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [ast.unparse(call) for call in calls if not is_checked(call)]


def is_checked(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    for word in call.keywords:
        if word.arg == "check" and name in SETTERS_CHECK_BY_DEFAULT:
            return isinstance(word.value, ast.Constant) and word.value.value is True
    return SETTERS_CHECK_BY_DEFAULT.get(name, True)


def test_every_register_state_the_product_sets_is_checked() -> None:
    """All rooms above this one set registers only through the checker.

    But conformance: what a CPU makes of states that nobody should set is what it asks.
    """
    rooms = Path(kvmhost.__file__).parent
    free = (rooms / "kvm", rooms / "conformance" / "runners")
    modules = [module for module in rooms.rglob("*.py") if not any(map(module.is_relative_to, free))]
    assert len(modules) > 20
    assert [
        (module.name, calls) for module in modules if (calls := unchecked_calls(module.read_text()))
    ] == []


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        ("vcpu.set_regs(r)", 1),
        ("vcpu.set_regs(r, check=True)", 0),
        ("vcpu.set_sregs(s, check=False)", 1),
        ("vcpu.set_sregs(s, check=maybe)", 1),
        ("vcpu.set_state(r, s)", 0),
        ("vcpu.set_state(r, s, check=False)", 1),
        ("vcpu.regs()", 0),
    ],
)
def test_that_search_sees_what_is_not_checked(source: str, calls: int) -> None:
    assert len(unchecked_calls(source)) == calls
