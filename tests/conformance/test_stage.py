"""The stage and its builders, against bytes worked out by hand from the manuals' figures."""

from itertools import pairwise

import pytest

from kvmhost.conformance import descriptors
from kvmhost.conformance.expression import ExpressionError, evaluate
from kvmhost.conformance.scene import Scene
from kvmhost.conformance.stage import (
    ADDRESS,
    ARENA,
    ARENA_SIZE,
    HOST_TSS,
    PAGES,
    Stage,
    StageError,
    page_number,
)
from kvmhost.conformance.switcher_image import SwitcherImage, SwitcherImageError, from_facts


def image(frame: str = "2.6.23", size: int = 8) -> SwitcherImage:
    facts = {
        "frame": frame,
        "descriptors": size,
        "symbols": {"switch_to_guest": 4, "fault_in_switcher": 9},
        "default_idt_entries": [n % 16 for n in range(256)],
        "boundaries": {"B02_push_es": 4, "B43_push_es_return": 5, "B72_return": 6, "B43_push_es_deliver": 7},
    }
    return from_facts("made", bytes(16), facts, "made.json")


def dword(stage: Stage, address: int) -> int:
    return int.from_bytes(stage.template.image[address - ARENA :][:4], "little")


@pytest.mark.parametrize(
    ("text", "value"),
    [("0x10+2*3|1", 0x17), ("A", 5), ("A-1", 4), (7, 7), ("SW.B12 + 1", 0x21), ("2*A*3", 30), ("1|A+1", 7)],
)
def test_expressions(text: str | int, value: int) -> None:
    assert evaluate(text, {"A": 5, "SW.B12": 0x20}) == value


@pytest.mark.parametrize("text", ["", "A+", "+A", "A B", "A^2", "B", "A++A", "0x"])
def test_expressions_that_are_none(text: str) -> None:
    with pytest.raises(ExpressionError):
        evaluate(text, {"A": 5})


def test_an_unknown_symbol_names_its_neighbours() -> None:
    with pytest.raises(ExpressionError, match="no symbol G_CODES here; there is G_CODE"):
        Stage.of("L1").evaluate("G_CODES+1")


def test_the_arena_is_as_the_paper_says() -> None:
    assert ADDRESS["HOST_TOP"] == 0x400000 and ADDRESS["SAVE"] == 0x410000 and ADDRESS["X9"] == 0x427000
    assert len(PAGES) == 40 and ARENA_SIZE == 40 * 4096
    assert all(b - a == 4096 for a, b in pairwise(ADDRESS.values()))
    assert page_number(ADDRESS["X9"] + 4095) == 39
    with pytest.raises(StageError):
        page_number(ADDRESS["X9"] + 4096)


def test_descriptors_from_the_figures() -> None:
    # SDM vol. 3 "Segment Descriptors": base 0x12345678, limit 0xABCDE, G D P=1 DPL=3, RX accessed.
    raw = descriptors.segment(base=0x12345678, limit=0xABCDE, type="code-rx", dpl=3)
    assert raw.hex() == "debc785634fbca12"
    given = {"base": 0x12345678, "limit": 0xABCDE, "type": 11, "s": 1, "dpl": 3, "p": 1}
    assert descriptors.segment_fields(raw) == {**given, "avl": 0, "l": 0, "b": 1, "g": 1}
    assert descriptors.segment(type="tss32", base=HOST_TSS, limit=0x67, g=0, b=0)[5] == 0x89
    assert descriptors.gate(selector=0x50, offset=0xFFC00123, dpl=3).hex() == "2301500000eec0ff"
    assert descriptors.gate(type="trap32", selector=0xA1, offset=0x416000, p=0).hex() == "0060a100000f4100"
    tss = descriptors.tss(esp0=0xFFC02000, ss0=0x58)
    assert tss[4:10].hex() == "0020c0ff5800" and tss[0x66:].hex() == "6800" and len(tss) == 104


@pytest.mark.parametrize("fields", [{"limit": 1 << 20}, {"dpl": 4}, {"type": "code"}, {"p": 2}, {"type": 16}])
def test_descriptors_that_do_not_fit(fields: dict[str, int]) -> None:
    with pytest.raises(descriptors.DescriptorError):
        descriptors.segment(**fields)


def test_legacy_tables_map_the_arena_and_the_switcher() -> None:
    stage = Stage.of("pair", "legacy", image())
    assert dword(stage, ADDRESS["HOST_TOP"] + 4) == ADDRESS["HOST_PT"] | 0x27
    assert dword(stage, ADDRESS["HOST_TOP"] + 0xFFC) == ADDRESS["HOST_SWPT"] | 0x27
    assert dword(stage, ADDRESS["HOST_PT"]) == 0x400063
    assert dword(stage, ADDRESS["HOST_PT"] + 4 * PAGES.index("U_CODE")) == ADDRESS["U_CODE"] | 0x67
    assert dword(stage, ADDRESS["HOST_SWPT"] + 4) == ADDRESS["H_PAGE"] | 0x63
    assert dword(stage, ADDRESS["GUEST_SWPT"]) == ADDRESS["SW_TEXT"] | 0x61
    assert dword(stage, ADDRESS["GUEST_SWPT"] + 4) == ADDRESS["REGS_PAGE"] | 0x63
    assert dword(stage, ADDRESS["GUEST_SWPT"] + 8) == ADDRESS["STATE_PAGE"] | 0x61
    assert dword(stage, ADDRESS["GUEST_SWPT"] + 12) == 0
    assert dword(stage, ADDRESS["GUEST_PT"] + 4 * PAGES.index("HOST_CODE")) == 0


def test_pae_tables_have_four_entries_at_the_top() -> None:
    stage = Stage.of("L1", "pae")
    assert [dword(stage, ADDRESS["HOST_TOP"] + 8 * n) for n in range(4)] == [
        *(ADDRESS["HOST_PD0"] | 1, 0, 0, ADDRESS["HOST_PD3"] | 1)
    ]
    assert dword(stage, ADDRESS["HOST_PD0"] + 8 * 2) == ADDRESS["HOST_PT"] | 0x27
    assert dword(stage, ADDRESS["HOST_PD3"] + 8 * 0x1FE) == ADDRESS["HOST_SWPT"] | 0x27
    assert stage.cpu("ring1").cr4 == 0x20 and Stage.of("L1").cpu("ring1").cr4 == 0


def test_the_pair_of_pages_follows_the_layout() -> None:
    old, new = image(), image("2.6.24", 6)
    assert old.state_offsets()["host_sp"] == 20 and new.state_offsets()["host_sp"] == 16
    assert old.state_offsets()["end"] == 24 + 16 + 104 + 2048 + 256
    assert old.frame_offsets()["eax"] == 0xFB8 + 28 and new.frame_offsets()["eax"] == 0xFB8
    assert old.frame_offsets()["trapnum"] == new.frame_offsets()["trapnum"] == 0xFE4
    stage = Stage.of("pair", "pae", new)
    assert dword(stage, stage.evaluate("FRAME.eip")) == ADDRESS["G_CODE"]
    assert dword(stage, stage.evaluate("STATE_PAGE.guest_tss+4")) == 0xFFC02000
    assert stage.evaluate("STATE.guest_gdt_desc") == 0xFFC02000 + 26
    assert stage.template.report == {0xFFC00009}


def test_boundaries_have_short_names() -> None:
    assert dict(image().boundaries) == {"B02": 4, "B43r": 5, "B72": 6, "B43d": 7}


def test_a_switcher_without_symbols_is_refused() -> None:
    with pytest.raises(SwitcherImageError, match="no symbol switch_to_guest"):
        from_facts("x", b"\x90", {**FACTS, "symbols": {}}, "x.json")
    with pytest.raises(SwitcherImageError, match=r"x\.json: symbols missing"):
        from_facts("x", b"\x90", {k: v for k, v in FACTS.items() if k != "symbols"}, "x.json")
    with pytest.raises(SwitcherImageError, match="offsets below 1"):
        from_facts("x", b"\x90", {**FACTS, "default_idt_entries": [1] * 256}, "x.json")


FACTS = {
    "frame": "2.6.23",
    "descriptors": 8,
    "symbols": {"switch_to_guest": 0},
    "default_idt_entries": [0] * 256,
}


def test_two_texts_of_one_name_are_two_templates() -> None:
    a = from_facts("same", b"\x90\x90", FACTS, "x")
    b = from_facts("same", b"\x90\xf4", FACTS, "x")
    assert Stage.of("pair", "legacy", a).template != Stage.of("pair", "legacy", b).template
    assert Stage.of("pair", "legacy", a) is Stage.of("pair", "legacy", a)


def test_builders_change_what_they_are_told_and_nothing_else() -> None:
    stage = Stage.of("L1")
    scene = Scene(stage)
    scene.descriptor(0x50, p=0)
    scene.descriptor(22 * 8, type="data-ro", dpl=1, a=0)
    scene.gate(3, dpl=1)
    scene.tss(esp0=0x1234)
    scene.page(ADDRESS["X0"], rw=0, phys=ADDRESS["X1"])
    changed = {patch.address: patch.data.hex() for patch in scene.patches()}
    assert changed == {
        ADDRESS["HOST_GDT"] + 0x55: "1b",
        ADDRESS["HOST_GDT"] + 22 * 8: "ffff000000b0cf",
        HOST_TSS + 4: "341200",
        ADDRESS["HOST_IDT"] + 3 * 8 + 5: "ae",
        ADDRESS["HOST_PT"] + 4 * 30: (ADDRESS["X1"] | 0x61).to_bytes(4, "little")[:2].hex(),
    }


def test_large_pages_and_upper_levels() -> None:
    scene = Scene(Stage.of("L1"))
    scene.page(0x00C00000, phys=ADDRESS["HOST_TOP"], level="large", us=1)
    assert scene.read(ADDRESS["HOST_TOP"] + 12, 4).hex() == "e7004000"
    scene.page(ADDRESS["X0"], level="pde", us=0)
    assert int.from_bytes(scene.read(ADDRESS["HOST_TOP"] + 4, 4), "little") == ADDRESS["HOST_PT"] | 0x23
    pae = Scene(Stage.of("L1", "pae"))
    pae.page(0x40000000, phys=ADDRESS["HOST_PD0"], level="pdpte")
    assert pae.read(ADDRESS["HOST_TOP"] + 8, 8).hex() == "0110400000000000"
    pae.page(ADDRESS["X0"], nx=1)
    assert pae.read(ADDRESS["HOST_PT"] + 8 * 30 + 7, 1) == b"\x80"


@pytest.mark.parametrize(
    "change",
    [
        lambda scene: scene.page(0x00C00000),
        lambda scene: scene.page(ADDRESS["X0"], nx=1),
        lambda scene: scene.page(ADDRESS["X0"], level="pdpte"),
        lambda scene: scene.page(ADDRESS["X0"], writable=1),
        lambda scene: scene.page(ADDRESS["X0"], table="guest"),
        lambda scene: scene.frame(eip=1),
        lambda scene: scene.descriptor(0x84, p=0),
        lambda scene: scene.descriptor(0x80, raw=b"1"),
        lambda scene: scene.gate(256, dpl=1),
        lambda scene: scene.gate(3, target=1),
        lambda scene: scene.write(0xFFC01000, b"x"),
        lambda scene: scene.write(ARENA + ARENA_SIZE - 1, b"xx"),
    ],
)
def test_what_the_stage_does_not_have(change: object) -> None:
    with pytest.raises(StageError):
        change(Scene(Stage.of("L1")))  # type: ignore[operator]


def test_starts_belong_to_worlds() -> None:
    with pytest.raises(StageError):
        Stage.of("L1").cpu("trip")
    with pytest.raises(StageError):
        Stage.of("pair", "legacy", image()).cpu("ring1")
    with pytest.raises(StageError):
        Stage.of("pair")
    cpu = Stage.of("L1").cpu("ring3")
    assert (cpu.eip, cpu.cs, cpu.ss, cpu.esp) == (ADDRESS["U_CODE"], 0x73, 0x7B, ADDRESS["U_STACK"] + 4096)
