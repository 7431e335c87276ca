"""The property test is only worth something if it fails: here the product is broken on purpose.

Each defect is one piece of source replaced by another; the modules are built anew from the changed text, and
the same scenarios must then end in a failed assertion.
"""

import itertools
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from host.paging_model import World
from host.paging_steps import Step, run, scenarios
from hypothesis import HealthCheck, Phase, given, settings

import kvmhost.host.paging
from kvmhost.host.memory import VmMemory
from kvmhost.host.page_pool import LEAST_PAGES
from kvmhost.host.paging import POOL_PAGES

# In the order in which they import each other.
MODULES = ["page_pool", "paging_guest", "paging_shadow", "paging_audit", "paging"]
FOLDER = Path(kvmhost.host.paging.__file__).parent
SEARCH = settings(
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

DEFECTS = {
    "USER is ignored when filling": ("paging", "FAULT_USER and not allowed & USER", "FAULT_USER and False"),
    "rights above do not count": ("paging", "allowed = above & entry", "allowed = entry"),
    "write is ignored when filling": ("paging", "FAULT_WRITE and not allowed & RW", "FAULT_WRITE and False"),
    "NX is ignored when filling": ("paging", "FAULT_FETCH and entry & NX", "FAULT_FETCH and False"),
    "NX does not reach the shadow": ("paging", "shadow |= entry & NX", "pass"),
    "a clean entry is writable": (
        "paging",
        "return shadow if entry & DIRTY else shadow & ~RW",
        "return shadow",
    ),
    "dirty is not marked": ("paging", "(DIRTY if error_code & FAULT_WRITE else 0)", "0"),
    "accessed is not marked": ("paging", "used = entry | ACCESSED | ", "used = entry | "),
    "the Guest's entry is not written back": ("paging", "if used != entry:", "if False:"),
    "all is told to be open to ring 3": ("paging", "| entry & SHADOW_FLAGS", "| entry & SHADOW_FLAGS | USER"),
    "the frame is not moved": ("paging", "self.state.mem_base + (entry & FRAME)", "(entry & FRAME)"),
    "SET_PTE of an absent entry is kept": ("paging", "if not value & PRESENT or not", "if not"),
    "SET_PTE fills in unused entries": ("paging", "if value & ACCESSED else 0", "if True else 0"),
    "SET_PTE reaches one root only": ("paging", "roots = range(ROOTS)", "roots = range(1)"),
    "SET_PTE for user space is ignored": ("paging", "range(index, index + 1)", "range(0)"),
    "SET_PGD drops half of 4 MiB": (
        "paging",
        "span = 512 if state.pae else 2",
        "span = 512 if state.pae else 1",
    ),
    "SET_PGD drops nothing": ("paging", "(index + 1) * span)", "index * span)"),
    "SET_PMD drops nothing": ("paging", "slot, slot + 1)", "slot, slot)"),
    "SET_PMD drops the user's half only": (
        "paging",
        "slot = gib * 512 + index",
        "slot = gib % 3 * 512 + index",
    ),
    "SET_PMD drops the kernel's in one root": (
        "paging",
        "range(ROOTS) if shared else",
        "range(1) if shared else",
    ),
    "a root is reused as it is": ("paging", "self.trees.free_slots(index, 0, self._kernel_slot())", "pass"),
    "every address space is the first": ("paging", "if pgdir[index] == key", "if pgdir[index] != NOBODY"),
    "the Switcher's range is the Guest's": (
        "paging",
        "if address >= SWITCHER_BASE:\n            return",
        "if 0:\n            return",
    ),
    "a new root has no Switcher": ("paging", "empty = self.trees.hang_switcher()", "empty = False"),
    "a new root has no stack": ("paging", "if empty or index is None:", "if False:"),
    "flushing forgets the stack": ("paging", "drop_everything()\n        self._pin()", "drop_everything()"),
    "running out of pages is the end": ("paging", "except PoolEmpty:", "except KeyError:"),
    "old rights stay": ("paging_shadow", "if entry & ~FRAME == flags:", "if entry:"),
    "tables are open to ring 3": (
        "paging_shadow",
        "flags = PRESENT | ACCESSED | ",
        "flags = PRESENT | ACCESSED | USER | ",
    ),
    "tables are not marked accessed": ("paging_shadow", "flags = PRESENT | ACCESSED", "flags = PRESENT"),
    "tops have more than P": (
        "paging_shadow",
        "self.pool.allocate() | PRESENT",
        "self.pool.allocate() | PRESENT | RW",
    ),
    "the old pair stays mapped": (
        "paging_shadow",
        "ffi.memmove(self._u8 + self._switcher_table, bytes(PAGE), PAGE)\n        self._u64",
        "self._u64",
    ),
    "the pair is never moved": (
        "paging_shadow",
        "if frames == self.switcher_frames:",
        "if self.switcher_frames:",
    ),
    "the other CPU's state page": ("paging_shadow", "state_page | PRESENT", "state_page + 0x5000 | PRESENT"),
    "the state page is writable": (
        "paging_shadow",
        "state_page | PRESENT | ",
        "state_page | PRESENT | RW | ",
    ),
    "the register page is executable": (
        "paging_shadow",
        "RW | ACCESSED | DIRTY | NX",
        "RW | ACCESSED | DIRTY",
    ),
    "the text is writable": ("paging_shadow", "text | PRESENT | ", "text | PRESENT | RW | DIRTY | "),
    "the text is open to ring 3": ("paging_shadow", "text | PRESENT | ", "text | PRESENT | USER | "),
    "the Switcher's table is open to ring 3": (
        "paging_shadow",
        "self._switcher_table | PRESENT",
        "self._switcher_table | PRESENT | USER",
    ),
    "freed slots keep their entries": (
        "paging_shadow",
        "ffi.memmove(entries, bytes((high - low) * 8), (high - low) * 8)",
        "pass",
    ),
    "freed directories stay linked": (
        "paging_shadow",
        "self._u64[place] = 0\n                self.pool",
        "self.pool",
    ),
    "freed tables are lost": ("paging_shadow", "if entry and not entry & PAGE_SIZE:", "if False:"),
    "flushing keeps the roots": (
        "paging_shadow",
        "ffi.memmove(self._u8 + self._roots, _EMPTY_ROOTS, len(_EMPTY_ROOTS))",
        "pass",
    ),
    "pages are not cleared": ("page_pool", "ffi.memmove(self._u8 + page, _ZERO, PAGE)", "pass"),
    "the pool has no end": ("page_pool", "if offset >= self._end:", "if offset >= 2 * self._end:"),
    "pages are handed out twice": (
        "page_pool",
        "self._state.pool_free = self._u32[(self._block + offset) // 4]",
        "pass",
    ),
    "PAE tables are read as two-level": ("paging_guest", "if state.pae:", "if False:"),
    "upper entries not present are used": ("paging_guest", "if not middle & PRESENT:", "if False:"),
}


def broken(monkeypatch: pytest.MonkeyPatch, module: str, old: str, new: str) -> Callable[..., Any]:
    """ShadowTables built from source in which `old` in `module` became `new`."""
    for name in MODULES:
        path = FOLDER / f"{name}.py"
        source = path.read_text()
        if name == module:
            assert old in source, f"{module} does not contain {old!r} any more"
            source = source.replace(old, new)
        copy = types.ModuleType(f"kvmhost.host.{name}")
        exec(compile(source, str(path), "exec"), copy.__dict__)
        monkeypatch.setitem(sys.modules, copy.__name__, copy)
    factory: Callable[..., Any] = sys.modules["kvmhost.host.paging"].ShadowTables
    return factory


def search(factory: Callable[..., Any], examples: int = 150) -> None:
    """Look for a scenario that shows a defect, in both formats, with much memory and with little."""

    @settings(SEARCH, max_examples=examples)
    @given(scenario=scenarios)
    def attempt(scenario: list[Step]) -> None:
        for pae, pages in itertools.product((False, True), (POOL_PAGES, LEAST_PAGES)):
            with VmMemory() as memory:
                run(World(memory, pae, factory, pool_pages=pages), scenario)

    attempt()


def test_an_unchanged_copy_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    search(broken(monkeypatch, "paging", "linear", "linear"), examples=30)


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_found(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    factory = broken(monkeypatch, *DEFECTS[defect])
    with pytest.raises(Exception) as caught:
        search(factory)
    assert not isinstance(caught.value, (SyntaxError, NameError, TypeError)), "the defect itself is broken"
