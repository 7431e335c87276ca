"""The Host's megabyte: text, IDT, page tables, and an area for each vCPU.

All vCPUs share what never changes (the ring-0 Host's page, the Switcher's page,
the IDT, the Host's page tables); each has its own GDT, TSS, mailbox, stack and
pair of pages.  The Host's tables are PAE, like every shadow, because the Switcher
changes CR3 and nothing else.  They map VM memory linear = physical, and the
Switcher once more at its own address.  Text is read-only and executable, all
else is data and NX.
"""

from __future__ import annotations

from typing import Any, Final

from kvmhost._native import ffi, lib
from kvmhost.host.errors import MachineBroken
from kvmhost.host.memory import VmMemory
from kvmhost.host.page_bits import ACCESSED, DIRTY, LARGE_PAGE, NX, PAGE, PAGE_SIZE, PRESENT, RW
from kvmhost.switcher import gates
from kvmhost.switcher.blobs import Blob, read_data
from kvmhost.switcher.pair import StatePage, pair_address

TABLE: Final = PRESENT | RW | ACCESSED
TEXT: Final = PRESENT | ACCESSED
DATA: Final = PRESENT | RW | ACCESSED | DIRTY | NX

BASE: Final = lib.HOST_AREA_BASE
TEXT_AT: Final = BASE + lib.HOST_TEXT_OFFSET
IDT_AT: Final = BASE + lib.HOST_IDT_OFFSET
PD_AT: Final = BASE + lib.HOST_PD_OFFSET
PT_AT: Final = BASE + lib.HOST_PT_OFFSET
SWITCHER_PT_AT: Final = BASE + lib.HOST_SWITCHER_PT_OFFSET
SWITCHER_TEXT_AT: Final = BASE + lib.SWITCHER_TEXT_OFFSET


class CpuArea:
    """Where one vCPU's things lie: addresses are VM-physical, which is linear for the Host."""

    def __init__(self, memory: VmMemory, index: int) -> None:
        self.base = BASE + lib.CPU_AREA_OFFSET + index * lib.CPU_AREA_SIZE
        self.gdt = self.base + lib.CPU_GDT_OFFSET
        self.tss = self.base + lib.CPU_TSS_OFFSET
        self.pdpt = self.base + lib.CPU_PDPT_OFFSET
        self.mailbox_at = self.base + lib.CPU_MAILBOX_OFFSET
        self.host_page = self.base + lib.CPU_HOST_PAGE_OFFSET
        self.state_page_at = self.base + lib.CPU_STATE_PAGE_OFFSET
        self.stack_top = self.base + lib.CPU_STACK_OFFSET + lib.CPU_STACK_SIZE
        self.pair = pair_address(index)
        self.memory = memory
        self.mailbox: Any = ffi.cast(
            "struct kvmhost_mailbox *", ffi.cast("uint8_t *", memory.u8) + self.mailbox_at
        )

    def state_page(self, blob: Blob) -> StatePage:
        """The pair's second page, through the layout of the Switcher that will use it."""
        return StatePage(ffi.cast("uint8_t *", self.memory.u8) + self.state_page_at, blob.layout)


class HostArea:
    """Writes the shared part once and the vCPUs' areas one by one."""

    def __init__(self, memory: VmMemory, blob: Blob) -> None:
        self.memory = memory
        self.blob = blob
        self.host_text, facts = read_data("host")
        self.symbols: dict[str, int] = facts["symbols"]
        self.vectors: list[int] = facts["default_idt_entries"]
        memory.write(TEXT_AT, self.host_text)
        memory.write(SWITCHER_TEXT_AT, blob.text)
        self._build_idt()
        self._build_tables()

    def symbol(self, name: str) -> int:
        """Linear address of a label of the ring-0 Host."""
        return int(TEXT_AT) + self.symbols[name]

    def _build_idt(self) -> None:
        """All gates are interrupt gates, as deliver_to_host takes their offsets without looking."""
        for vector, offset in enumerate(self.vectors):
            low, high = gates.pack_gate(TEXT_AT + offset, lib.HOST_CS, gates.INTERRUPT_GATE)
            self.memory.u32[IDT_AT // 4 + 2 * vector] = low
            self.memory.u32[IDT_AT // 4 + 2 * vector + 1] = high

    def _build_tables(self) -> None:
        self._directory(BASE, PT_AT)
        self._directory(lib.SWITCHER_BASE, SWITCHER_PT_AT)
        for page in range(BASE, BASE + lib.HOST_AREA_SIZE, PAGE):
            self._page(PT_AT, page, page | (TEXT if page == TEXT_AT else DATA))
        self._page(SWITCHER_PT_AT, lib.SWITCHER_BASE, SWITCHER_TEXT_AT | TEXT)

    def _directory(self, linear: int, entry: int) -> None:
        self.memory.u64[PD_AT // 8 + linear // LARGE_PAGE] = entry | TABLE

    def _page(self, table: int, linear: int, entry: int) -> None:
        self.memory.u64[table // 8 + linear // PAGE % 512] = entry

    def map_guest(self, start: int, end: int) -> None:
        """Show a Guest's block and RAM to the Host, in 2 MiB entries; both ends are multiples."""
        for physical in range(start, end, LARGE_PAGE):
            self.memory.u64[PD_AT // 8 + physical // LARGE_PAGE] = physical | DATA | PAGE_SIZE

    def add_text(self, address: int, text: bytes) -> None:
        """Put more text of ring 0 into whole pages of the Host area that nothing else uses.

        address: VM-physical, a multiple of 4096.  A vCPU sees it after its next load of CR3.
        """
        self.memory.write(address, text)
        for page in range(address, address + len(text), PAGE):
            self._page(PT_AT, page, page | TEXT)

    def take_text_back(self, address: int, length: int) -> None:
        """Make data again of what add_text() made text: `length` bytes, which read as zero afterwards."""
        for page in range(address, address + length, PAGE):
            self._page(PT_AT, page, page | DATA)
            self.memory.release(page, PAGE)

    def set_up_cpu(self, area: CpuArea) -> None:
        """A vCPU's GDT, TSS, mailbox and state page as they are before its first instruction."""
        self._page(SWITCHER_PT_AT, area.pair, area.host_page | DATA)
        self._page(SWITCHER_PT_AT, area.pair + PAGE, area.state_page_at | DATA)
        self._build_pdpt(area)
        self._build_gdt(area)
        self._build_tss(area)
        area.state_page(self.blob).set_up(
            self.blob,
            area.pair,
            host_cr3=area.pdpt,
            host_gdt=(8 * lib.GDT_ENTRIES - 1, area.gdt),
            host_idt=(8 * lib.IDT_ENTRIES - 1, IDT_AT),
            mailbox=area.mailbox_at,
        )
        mailbox = area.mailbox
        mailbox.pair = area.pair
        mailbox.entry_offset = self.blob.address("switch_to_guest")
        mailbox.entry_selector = lib.LGUEST_CS
        mailbox.initialised = 0

    def _build_pdpt(self, area: CpuArea) -> None:
        """Each vCPU has its own and writes it anew at its start, though all say the same.

        QEMU's TCG sets an accessed bit in PDPTEs, where it is reserved; KVM then refuses to load them
        with KVM_SET_SREGS.  So no vCPU may have walked through the ones that another starts with.
        """
        for quarter in range(4):
            self.memory.u64[area.pdpt // 8 + quarter] = (PD_AT + quarter * PAGE) | PRESENT

    def _build_gdt(self, area: CpuArea) -> None:
        """lguest's own indices, because foreign Switchers carry them as immediates."""
        entries = {
            lib.LGUEST_CS: gates.flat_code(),
            lib.LGUEST_DS: gates.flat_data(),
            lib.HOST_CS: gates.flat_code(),
            lib.HOST_DS: gates.flat_data(),
            lib.TSS_SELECTOR: gates.tss_descriptor(area.tss),
        }
        for selector, (low, high) in entries.items():
            self.memory.u32[(area.gdt + selector) // 4] = low
            self.memory.u32[(area.gdt + selector) // 4 + 1] = high

    def _build_tss(self, area: CpuArea) -> None:
        """Never used for a stack switch: the Host is ring 0 and stays there.  It must only exist."""
        tss = ffi.cast("struct kvmhost_tss *", ffi.cast("uint8_t *", self.memory.u8) + area.tss)
        tss.esp0 = area.stack_top
        tss.ss0 = lib.HOST_DS
        tss.io_bitmap_base = ffi.sizeof("struct kvmhost_tss")

    def check_gates(self) -> None:
        """deliver_to_host decodes offsets blindly, so every gate must be one it can use."""
        for vector in range(lib.IDT_ENTRIES):
            gate = gates.unpack_gate(
                self.memory.u32[IDT_AT // 4 + 2 * vector], self.memory.u32[IDT_AT // 4 + 2 * vector + 1]
            )
            good = gate.present and gate.kind == gates.INTERRUPT_GATE and gate.selector == lib.HOST_CS
            if not good or not TEXT_AT <= gate.offset < TEXT_AT + len(self.host_text):
                raise MachineBroken(f"the Host's gate {vector:#x} leads nowhere", cause=str(gate))
