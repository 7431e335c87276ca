"""Copy-in: what a Guest changed reaches the CPU's live tables, and nothing it did not."""

import pytest

from kvmhost._native import ffi, lib
from kvmhost.host import segments
from kvmhost.host.errors import GuestBroke
from kvmhost.switcher import Layout, StatePage, gates, load, pair_address

HOST_ENTRIES = (10, 11, 16, 31)
FLAT_CODE = (0x0000FFFF, 0x00CF9A00)


class Bench:
    """A Guest's state beside a CPU's state page, without a CPU."""

    def __init__(self, switcher: str = "hardened") -> None:
        self.blob = load(switcher)
        self.raw = ffi.new("uint8_t[4096]")
        self.page = StatePage(self.raw, self.blob.layout)
        self.page.set_up(self.blob, pair_address(0), 0x102000, (255, 0x110000), (2047, 0x101000))
        self.state = ffi.new("struct kvmhost_guest *")
        segments.boot_gdt(self.state)
        self.hooks: set[int] = set()

    def bytes(self) -> bytes:
        return bytes(ffi.buffer(self.raw))

    def copy_in(self) -> dict[int, int]:
        """Copy in; the bytes of the page that changed, by their offset."""
        before = self.bytes()
        segments.copy_in(self.blob, self.state, self.page, self.hooks)
        after = self.bytes()
        return {at: after[at] for at in range(len(after)) if after[at] != before[at]}

    def gdt_offset(self, index: int) -> int:
        return self.page.layout.state["guest_gdt"] + 8 * index

    def idt_offset(self, vector: int) -> int:
        return self.page.layout.state["guest_idt"] + 8 * vector


@pytest.fixture(params=["seed", "hardened"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.param)


def fill(bench: Bench) -> None:
    """Change every entry of both tables of the Guest's, behind the flags' back."""
    for index in range(lib.GDT_ENTRIES):
        bench.state.gdt[2 * index], bench.state.gdt[2 * index + 1] = 0x1000 + index, 0x00CFBB00 + index
    for vector in range(lib.IDT_ENTRIES):
        low, high = gates.pack_gate(0xC0000000 + vector, lib.GUEST_CS, gates.TRAP_GATE, 3)
        bench.state.idt[2 * vector], bench.state.idt[2 * vector + 1] = low, high


def test_nothing_flagged_copies_nothing(bench: Bench) -> None:
    fill(bench)
    bench.state.changed = 0
    assert bench.copy_in() == {}


def test_gdt_flag_copies_the_gdt_alone_and_never_the_host_entries(bench: Bench) -> None:
    fill(bench)
    bench.state.changed = lib.CHANGED_GDT
    changed = bench.copy_in()
    start, end = bench.gdt_offset(0), bench.gdt_offset(lib.GDT_ENTRIES)
    assert changed
    assert all(start <= at < end for at in changed)
    touched = {(at - start) // 8 for at in changed}
    assert touched == set(range(lib.GDT_ENTRIES)) - set(HOST_ENTRIES)
    for index in touched:
        assert bench.page.guest_gdt[2 * index] == 0x1000 + index
    assert bench.state.changed == 0


def test_idt_flag_copies_the_idt_alone(bench: Bench) -> None:
    fill(bench)
    bench.state.changed = lib.CHANGED_IDT
    changed = bench.copy_in()
    start, end = bench.idt_offset(0), bench.idt_offset(lib.IDT_ENTRIES)
    assert changed
    assert all(start <= at < end for at in changed)
    direct = {v for v in range(256) if bench.page.guest_idt[2 * v] >> 16 == lib.GUEST_CS}
    assert direct == {0, 1, 3, 4, 5, 6, *range(9, 13), 16, 17, *range(19, 31), 0x80}


def test_tls_flag_copies_exactly_24_bytes(bench: Bench) -> None:
    before = bench.bytes()
    for index in range(lib.GDT_ENTRIES):
        # Every byte differs from what lies there, so that each byte copied is seen.
        offset = bench.gdt_offset(index)
        low, high = (int.from_bytes(before[offset + n : offset + n + 4], "little") for n in (0, 4))
        bench.state.gdt[2 * index], bench.state.gdt[2 * index + 1] = low ^ 0xFFFFFFFF, high ^ 0xFFFFFFFF
    fill_idt = gates.pack_gate(0xC0000000, lib.GUEST_CS, gates.TRAP_GATE, 3)
    bench.state.idt[0], bench.state.idt[1] = fill_idt
    bench.state.changed = lib.CHANGED_GDT_TLS
    changed = bench.copy_in()
    assert sorted(changed) == list(range(bench.gdt_offset(6), bench.gdt_offset(9)))
    assert len(changed) == 24


def test_hooked_vector_is_bounced_and_direct_again_without_the_hook(bench: Bench) -> None:
    segments.load_idt_entry(bench.state, 3, *gates.pack_gate(0xC0001000, 0x60, gates.TRAP_GATE, 3))
    bench.copy_in()
    assert bench.page.guest_idt[6] >> 16 == lib.GUEST_CS
    bench.hooks.add(3)
    bench.state.changed |= lib.CHANGED_IDT
    bench.copy_in()
    assert (bench.page.guest_idt[6], bench.page.guest_idt[7]) == gates.default_gate(bench.blob, 3, 3)
    bench.hooks.clear()
    bench.state.changed |= lib.CHANGED_IDT
    bench.copy_in()
    assert bench.page.guest_idt[6] >> 16 == lib.GUEST_CS


@pytest.mark.parametrize("vector", [7, 13, 14, 18, 32, 200, 255])
def test_trap_gates_of_the_hosts_vectors_stay_with_the_host(bench: Bench, vector: int) -> None:
    segments.load_idt_entry(bench.state, vector, *gates.pack_gate(0xC0001000, 0x60, gates.TRAP_GATE, 3))
    bench.copy_in()
    assert bench.page.guest_idt[2 * vector] >> 16 == lib.LGUEST_CS
    assert gates.unpack_gate(bench.page.guest_idt[2 * vector], bench.page.guest_idt[2 * vector + 1]).dpl == 0


def test_interrupt_gate_bounces_with_the_guests_dpl(bench: Bench) -> None:
    segments.load_idt_entry(bench.state, 4, *gates.pack_gate(0xC0001000, 0x60, gates.INTERRUPT_GATE, 3))
    bench.copy_in()
    live = gates.unpack_gate(bench.page.guest_idt[8], bench.page.guest_idt[9])
    assert (live.selector, live.dpl) == (lib.LGUEST_CS, 3)
    assert live.offset == bench.blob.gate_address(4)


def test_direct_gate_into_the_switcher_is_bounced(bench: Bench) -> None:
    target = lib.SWITCHER_BASE + 0x20
    segments.load_idt_entry(bench.state, 0, *gates.pack_gate(target, 0x60, gates.TRAP_GATE, 0))
    bench.copy_in()
    assert bench.page.guest_idt[0] >> 16 == lib.LGUEST_CS


@pytest.mark.parametrize("vector", [2, 8, 15, 0x1F])
def test_gates_that_are_never_taken(bench: Bench, vector: int) -> None:
    # Type 5, a task gate: Linux offers one for vector 8, and it must be ignored before it is judged.
    segments.load_idt_entry(bench.state, vector, 0x00600000, 0x00008500)
    assert bench.state.idt[2 * vector + 1] == 0
    assert bench.state.changed == 0


@pytest.mark.parametrize("kind", [0x5, 0x6, 0x7, 0xC])
def test_gates_of_other_types_kill(bench: Bench, kind: int) -> None:
    with pytest.raises(GuestBroke, match="type"):
        segments.load_idt_entry(bench.state, 0x20, *gates.pack_gate(0xC0001000, 0x60, kind))


def test_gate_numbers_end_at_255(bench: Bench) -> None:
    with pytest.raises(GuestBroke, match="0x100"):
        segments.load_idt_entry(bench.state, 256, 0, 0)


@pytest.mark.parametrize("kind", range(16))
def test_no_system_descriptor_gets_in(bench: Bench, kind: int) -> None:
    """Conformance ROG-008: a blind accessed bit would turn a call gate into a task gate."""
    segments.load_gdt_entry(bench.state, 5, 0x00501234, 0x0000E000 | kind << 8)
    assert (bench.state.gdt[10], bench.state.gdt[11]) == (0, 0)


@pytest.mark.parametrize("dpl", range(4))
@pytest.mark.parametrize("kind", range(16))
def test_segments_are_accessed_and_never_ring_0(bench: Bench, kind: int, dpl: int) -> None:
    low, high = 0x1234FFFF, 0x12CF9012 & ~0x6F00 | kind << 8 | dpl << 13
    segments.load_gdt_entry(bench.state, 5, low, high)
    assert bench.state.gdt[10] == low
    assert bench.state.gdt[11] == high & ~0x6000 | 0x100 | max(dpl, 1) << 13


def test_gdt_index_ends_at_31(bench: Bench) -> None:
    segments.load_gdt_entry(bench.state, 31, *FLAT_CODE)
    with pytest.raises(GuestBroke, match="32"):
        segments.load_gdt_entry(bench.state, 32, *FLAT_CODE)


def test_layouts_agree_with_the_sheet() -> None:
    """abi 2.2, typed here a second time on purpose."""
    assert Layout.of("2.6.24", 6).state["guest_gdt"] == 2184
    assert Layout.of("2.6.23", 8).state["guest_gdt"] == 2192


def test_a_flag_set_during_the_copy_is_for_the_next_one(bench: Bench) -> None:
    """Another thread may install a hook at any time; here it does while the IDT is being read."""

    class Hooks(set[int]):
        def __contains__(self, vector: object) -> bool:
            segments.flag(bench.state, lib.CHANGED_IDT)
            return False

    bench.state.changed = lib.CHANGED_ALL
    segments.load_idt_entry(bench.state, 3, *gates.pack_gate(0xC0001000, 0x60, gates.TRAP_GATE, 3))
    bench.hooks = Hooks()
    bench.copy_in()
    assert bench.state.changed == lib.CHANGED_IDT


def test_a_copy_that_fails_stays_due(bench: Bench) -> None:
    class Hooks(set[int]):
        def __contains__(self, vector: object) -> bool:
            raise MemoryError

    bench.state.changed = lib.CHANGED_ALL
    bench.hooks = Hooks()
    with pytest.raises(MemoryError):
        bench.copy_in()
    assert bench.state.changed == lib.CHANGED_ALL
