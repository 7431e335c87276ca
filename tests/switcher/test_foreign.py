"""Switchers from elsewhere: four generations load, and what could not run is refused as a file."""

from __future__ import annotations

import struct
from pathlib import Path
from random import Random

import pytest
from switcher import reference
from switcher.build import SOURCES, assemble, constants, variant
from switcher.walk import decode, walk, words

from kvmhost.switcher import SwitcherError, load
from kvmhost.switcher.foreign import load as load_object

SOURCE = Path(__file__).parent / "foreign.S"
GENERATIONS = [(frame, size) for frame in ("2.6.23", "2.6.24") for size in (8, 6)]
BASE = 0xFFC00000

# First words of the frame in the tables of the ABI description.
FIRST_POPS = {
    "2.6.23": ["pop ebx", "pop ecx", "pop edx", "pop esi", "pop edi", "pop ebp", "pop gs", "pop eax"],
    "2.6.24": ["pop eax", "pop ebx", "pop ecx", "pop edx", "pop esi", "pop edi", "pop ebp", "pop gs"],
}
# Offset of the pseudo-descriptor of the Guest's GDT in the state page, same place.
GUEST_GDT_DESC = {8: 32, 6: 26}


def build(folder: Path, frame: str = "2.6.24", size: int = 6, *options: str) -> Path:
    generation = (f"-DFRAME={frame.replace('.', '')}", f"-DDESC={size}")
    return assemble(SOURCE, folder / "foreign.o", *generation, *options)


def refusal(path: Path, frame: str | None = None, size: int | None = None) -> SwitcherError:
    with pytest.raises(SwitcherError) as caught:
        load(str(path), frame, size)
    assert caught.value.next_step
    return caught.value


@pytest.mark.parametrize(("frame", "size"), GENERATIONS)
@pytest.mark.parametrize("told", [True, False])
def test_every_generation_loads(frame: str, size: int, told: bool, tmp_path: Path) -> None:
    path = str(build(tmp_path, frame, size))
    blob = load(path, frame, size) if told else load(path)
    assert (blob.layout.frame, blob.layout.descriptors) == (frame, size)
    start = blob.symbols["switch_to_guest"]
    assert f"lgdt [ecx + {4096 + GUEST_GDT_DESC[size]:#x}]" in words(walk(blob, start))
    after = [decode(blob, at).words for at in range(blob.symbols["leave_host"] + 3, len(blob.text) - 8)]
    assert after[:1] == FIRST_POPS[frame][:1]
    for vector in range(256):
        assert reference.compare_stub(blob, vector, reference.ERROR_CODES_2007) == []


def test_text_is_relocated_for_where_it_will_lie(tmp_path: Path) -> None:
    blob = load(str(build(tmp_path)))
    jump = walk(blob, blob.symbols["switch_to_guest"])[-2]
    assert jump.words == f"mov edx, {BASE + blob.symbols['leave_host']:#x}"
    assert blob.symbols["start_switcher_text"] == 0
    assert "neighbour" not in blob.symbols
    assert b"\xf4\xf4" not in blob.text


def test_jumps_to_weak_names_are_relative_to_where_they_stand(tmp_path: Path) -> None:
    blob = load(str(build(tmp_path)))
    for vector, end in ((0, "return_to_host"), (2, "handle_nmi"), (200, "deliver_to_host")):
        steps = walk(blob, blob.default_idt_entries[vector])
        assert steps[3].offset == blob.symbols[end]


def test_without_an_end_the_text_ends_with_its_section(tmp_path: Path) -> None:
    with_end = load(str(build(tmp_path)))
    assert load(str(build(tmp_path, "2.6.24", 6, "-DNO_END"))).text == with_end.text


def test_what_lies_behind_the_end_is_left_out(tmp_path: Path) -> None:
    plain = load(str(build(tmp_path)))
    assert load(str(build(tmp_path, "2.6.24", 6, "-DBEHIND=call elsewhere"))).text == plain.text


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        ("call printk", "needs printk, which it does not define"),
        ("movl $printk, %eax", "needs printk, which it does not define"),
        ("movl default_idt_entries, %eax", "outside its text"),
        ("movl $neighbour, %eax", "outside its text"),
        (".weak beyond; jmp beyond", "refers to beyond"),
        ("movl $(end_switcher_text + 0x10000), %eax", "outside its text"),
        (".globl fixed; .set fixed, 0x1000; movl $fixed, %eax; jmp fixed", "outside its text"),
        (".word switch_to_guest", "relocation of type 20"),
        (".space 4096", "it must fit one page"),
    ],
)
def test_text_that_cannot_live_alone(extra: str, complaint: str, tmp_path: Path) -> None:
    error = refusal(build(tmp_path, "2.6.24", 6, f"-DEXTRA={extra}", "-DBEHIND=hlt; beyond: nop"))
    assert complaint in str(error)


def test_a_word_that_crosses_the_end(tmp_path: Path) -> None:
    """A field at the edge of the text whose relocation reaches past it."""
    extra = "word: .long switch_to_guest; .globl end_switcher_text; .set end_switcher_text, word + 2"
    error = refusal(build(tmp_path, "2.6.24", 6, f"-DEXTRA={extra}", "-DNO_END"))
    assert "crosses the edge" in str(error)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (".rept\t256", ".rept\t255", "has 255 entries"),
        (".globl\ttable_end\ntable_end:\n\t.long\t0", ".long\tswitch_to_guest", "has 257 entries"),
        ("\t.long\t1f\n", "\t.long\tneighbour\n", "entry 0 of default_idt_entries does not lead"),
        ("\t.long\t1f\n", "\t.long\tprintk\n", "entry 0 of default_idt_entries does not lead"),
        ("\t.long\t1f\n", "\t.long\tswitch_to_guest\n", "entries must increase"),
        ("default_idt_entries:", "some_table:", "it does not define default_idt_entries"),
        (".globl\tstart_switcher_text\nstart_switcher_text:", "", "does not define start_switcher_text"),
        ("\nswitch_to_guest:", "\nstart_guest:", "does not define switch_to_guest"),
        ("\nneighbour:", "\nswitch_to_guest:", "switch_to_guest lies outside its text"),
        (".globl\ttable_end", ".size default_idt_entries, 1000", "has 250 entries"),
    ],
)
def test_objects_that_are_no_switchers(old: str, new: str, complaint: str, tmp_path: Path) -> None:
    source = SOURCE.read_text()
    assert source.count(old) == 1
    source = source.replace(old, new)
    if new == "\nswitch_to_guest:":
        source = source.replace("\nswitch_to_guest:\n\tpush", "\nreal_switch:\n\tpush")
    changed = tmp_path / "changed.S"
    changed.write_text(source)
    error = refusal(assemble(changed, tmp_path / "changed.o", "-DFRAME=2624", "-DDESC=6"))
    assert complaint in str(error)


def test_a_generation_that_the_text_contradicts(tmp_path: Path) -> None:
    path = build(tmp_path, "2.6.23", 8)
    assert "frame order 2.6.23, not 2.6.24" in str(refusal(path, "2.6.24", 8))
    assert "8-byte descriptors, not 6" in str(refusal(path, "2.6.23", 6))
    assert "unknown frame order" in str(refusal(path, "2.4", 8))


def test_a_text_that_does_not_tell_must_be_told(tmp_path: Path) -> None:
    path = variant("seed", tmp_path, ("lgdt\tS8_host_gdt_desc(%eax)", ""))
    assert "does not show its descriptor size" in str(refusal(path))
    assert load(str(path), None, 8).layout.frame == "2.6.23"


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        (4, b"\x02", "64-bit"),
        (18, struct.pack("<H", 40), "another machine (EM_ARM)"),
        (16, struct.pack("<H", 2), "no relocatable object (ET_EXEC)"),
        (0, b"\x7fELG", "not a whole ELF file"),
        (32, struct.pack("<I", 0xFFFFFF), "not a whole ELF file"),
    ],
)
def test_headers(place: int, value: bytes, complaint: str, tmp_path: Path) -> None:
    data = bytearray(build(tmp_path).read_bytes())
    data[place : place + len(value)] = value
    changed = tmp_path / "changed.o"
    changed.write_bytes(data)
    assert complaint in str(refusal(changed)), str(refusal(changed))


def test_a_real_64_bit_object(tmp_path: Path) -> None:
    source = tmp_path / "empty.S"
    source.write_text(".globl switch_to_guest\nswitch_to_guest: ret\n")
    target = assemble(source, tmp_path / "empty.o", "-m64", "-march=x86-64")
    assert "64-bit object" in str(refusal(target))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    """The file cut at each sixteenth of its length: always our exception, never another."""
    data = build(tmp_path).read_bytes()
    cut = tmp_path / "cut.o"
    for part in range(16):
        cut.write_bytes(data[: len(data) * part // 16])
        assert refusal(cut).cause


def test_damaged_objects_load_or_are_refused(tmp_path: Path) -> None:
    """300 objects with one to four wrong bytes each: never another exception than ours."""
    random = Random(2007)
    data = build(tmp_path).read_bytes()
    damaged = tmp_path / "damaged.o"
    refused = 0
    for _ in range(300):
        copy = bytearray(data)
        for _ in range(random.randint(1, 4)):
            within = random.choice(((0, 52), (0, len(data)), (len(data) - 600, len(data))))
            copy[random.randrange(*within)] = random.choice((0, 1, 0x80, 0xFF, random.randrange(256)))
        damaged.write_bytes(copy)
        try:
            assert len(load_object(damaged).default_idt_entries) == 256
        except SwitcherError as error:
            assert error.next_step
            refused += 1
    assert 50 < refused < 300


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "neither shipped nor a file" in str(refusal(tmp_path / "none.o"))
    assert "cannot be read" in str(refusal(tmp_path))


@pytest.mark.parametrize("name", ["seed", "hardened"])
def test_the_shipped_sources_have_nothing_to_relocate(name: str, tmp_path: Path) -> None:
    """Only the table knows an address (SW-STB-007): the text gets the same bytes wherever it goes."""
    from elftools.elf.elffile import ELFFile

    path = assemble(SOURCES / f"{name}.S", tmp_path / f"{name}.o", f"-I{constants()}")
    with path.open("rb") as file:
        elf = ELFFile(file)
        text = elf.get_section_by_name(".text")
        symbols = elf.get_section_by_name(".symtab")
        table = elf.get_section_by_name(".rel.text")
        relocations = list(table.iter_relocations()) if table else []
        kinds = {r["r_info_type"] for r in relocations}
        targets = {symbols.get_symbol(r["r_info_sym"])["st_shndx"] for r in relocations}
        index = list(elf.iter_sections()).index(text)
    assert kinds <= {2}, "a relative jump within the text is all that may be left to the linker"
    assert targets <= {index}
    blob = load(str(path))
    assert blob.text == load(name).text
    assert blob.default_idt_entries == load(name).default_idt_entries


@pytest.mark.parametrize("name", ["seed", "hardened"])
@pytest.mark.parametrize("base", [0xFFC00000, 0xFFBFE000, 0x00400000])
def test_text_means_the_same_at_every_base(name: str, base: int) -> None:
    """Disassembled at another base, every instruction is the same but for the targets of its jumps."""
    blob = load(name)
    at = 0
    while at < len(blob.text):
        here, there = decode(blob, at), decode(blob, at, base)
        if here.words != there.words:
            assert here.mnemonic == there.mnemonic
            target, moved = (int(step.words.split()[-1], 16) for step in (here, there))
            assert moved == target + base
            assert 0 <= target < len(blob.text)
        assert "[0x" not in here.words, f"{here} names an absolute address"
        at += len(here.code)
