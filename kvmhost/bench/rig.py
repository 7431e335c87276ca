"""A Machine of the product's, with the benchmarks' ring-0 text in its Host area.

There is no second Host here.  The Machine, its vCPU, its Switcher and its Guest are those that every Guest
gets; only the far pointer through which the ring-0 Host calls the Switcher leads to native/bench/ring0.S
instead, which times one body and returns as a Switcher would.  One KVM_RUN is one sample.

What the bodies need besides (a gate or two, segments of rings 1 and 3, another task, the text shown to ring
3, SYSENTER's registers) is set up beside what the Host has, and taken away again before the Machine goes.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from contextlib import ExitStack
from functools import cache
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from kvmhost._native import ffi, lib
from kvmhost.bench.errors import Unmeasurable, WorkerBroke
from kvmhost.host.host_area import IDT_AT, PD_AT
from kvmhost.host.machine import Machine
from kvmhost.host.page_bits import ACCESSED, LARGE_PAGE, PAGE, PRESENT, RW, USER
from kvmhost.host.traps import Trap
from kvmhost.kvm import ExitInterrupted, ExitIo
from kvmhost.switcher import Frame, Layout, StatePage, gates, load

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest
    from kvmhost.host.guest_trap import GuestTrap
    from kvmhost.kvm import Kvm
    from kvmhost.switcher import Blob

# SYSENTER's registers (Intel SDM vol. 4, "Architectural MSRs").
SYSENTER_CS: Final = 0x174
SYSENTER_ESP: Final = 0x175
SYSENTER_EIP: Final = 0x176

GUEST_BYTES: Final = 1 << 20
# What the Guest does for ever.  HLT at ring 1 is a fault: EIP stays in front of it.  INT leaves EIP behind
# it, in front of a JMP back.
HLT_AT: Final = 0x10000
INT_AT: Final = 0x10010
CODE: Final = {HLT_AT: b"\xf4", INT_AT: b"\xcd\x1f\xeb\xfc"}
ENTRIES: Final = {Trap.GENERAL_PROTECTION: HLT_AT, Trap.HYPERCALL: INT_AT + 2}
PATIENCE: Final = 60.0
#: After so many caches, TLB and predictors know their way.
WARM_UP: Final = 16
EFLAGS_FIXED: Final = 2


@cache
def ring0() -> tuple[bytes, dict[str, int]]:
    """The text and its symbols, linear addresses all.

    Raises WorkerBroke where the installation is not whole.
    """
    folder = Path(__file__).parent.parent / "data" / "bench"
    try:
        about = json.loads((folder / "ring0.json").read_text())
        return (folder / "ring0.bin").read_bytes(), about["symbols"]
    except (OSError, ValueError, KeyError) as error:
        raise WorkerBroke(
            "the benchmarks' ring-0 text cannot be read",
            cause=str(error),
            next_step="install kvmhost again: pip install --force-reinstall",
        ) from error


class Rig:
    """One vCPU, one Guest, one Switcher, and bodies that are timed.

    switcher: as a Machine takes it.  kvm: an open Kvm, which stays open.  To be closed.
    """

    def __init__(self, switcher: str | Blob = "hardened", kvm: Kvm | None = None) -> None:
        self.text, self.at = ring0()
        self.machine = Machine(switcher=switcher, kvm=kvm)
        try:
            self.memory = self.machine.memory
            self.cpu = self.machine.cpus[0]
            self.vcpu = self.cpu.vcpu
            self.area = self.cpu.area
            self.guest = self._warm_guest()
            self._found = [(at, self.memory.read(at, size)) for at, size in self._borrowed()]
            self._furnish()
            self._furnish_cpu()
        except BaseException:
            self.machine.close()
            raise

    def _warm_guest(self) -> Guest:
        """A Guest that has trapped once by the product's own ways: its pages and its FPU are in place."""
        guest = self.machine.add_guest(GUEST_BYTES)
        for at, code in CODE.items():
            guest.ram.write(at, code)
        guest.set_entry(HLT_AT)
        guest.frame.fs = guest.frame.gs = lib.GUEST_DS
        seen: list[int] = []

        def stop(trap: GuestTrap) -> None:
            seen.append(guest.frame.eip)
            self.machine.stop()

        guest.on(Trap.GENERAL_PROTECTION)(stop)
        self.machine.run(timeout=PATIENCE)
        guest.off(Trap.GENERAL_PROTECTION, stop)
        if seen[:1] != [HLT_AT]:
            raise WorkerBroke(
                "the Guest that is to be timed did not come to its trap",
                cause=str(guest.outcome or f"it stopped at {guest.frame.eip:#x}"),
                next_step="run `kvmhost doctor`",
            )
        return guest

    # ---- setting up and taking away -------------------------------------------------

    def _borrowed(self) -> tuple[tuple[int, int], ...]:
        """What of the Host's is changed as long as the rig is there: VM-physical addresses and bytes."""
        return (
            (self.area.gdt, 8 * lib.GDT_ENTRIES),
            (self.area.tss, ffi.sizeof("struct kvmhost_tss")),
            (IDT_AT, 8 * lib.IDT_ENTRIES),
            (self._user_slot(), 8),
        )

    def _user_slot(self) -> int:
        return int(PD_AT) + self.at["rig_user"] // LARGE_PAGE * 8

    def _furnish(self) -> None:
        """What all vCPUs would see: text, gates, the pages for ring 3, the second root."""
        memory, at = self.memory, self.at
        self.machine.host.add_text(at["rig_text"], self.text)
        table = at["rig_user_table"]
        for index in range(-(-len(self.text) // PAGE)):
            entry = at["rig_text"] + index * PAGE | PRESENT | USER | ACCESSED
            memory.u64[table // 8 + index] = entry
        memory.u64[self._user_slot() // 8] = table | PRESENT | RW | USER | ACCESSED
        for quarter in range(4):
            memory.u64[at["rig_pdpt"] // 8 + quarter] = PD_AT + quarter * PAGE | PRESENT
        for page in range(at["rig_pages"], at["rig_pages_end"], PAGE):
            memory.u8[page] = 1
        for name, dpl in (("back", 3), ("trap", 1), ("ring3", 3)):
            self._entry(
                IDT_AT + 8 * at[f"gate_{name}_vector"],
                gates.pack_gate(at[f"gate_{name}"], lib.HOST_CS, gates.INTERRUPT_GATE, dpl),
            )

    def _furnish_cpu(self) -> None:
        """What is the vCPU's own, and is gone when its Host is started anew."""
        at, gdt = self.at, self.area.gdt
        for selector, entry in (
            (at["ring1_cs"], gates.flat_code(1)),
            (at["ring1_ds"], gates.flat_data(1)),
            (lib.USER_CS, gates.flat_code(3)),
            (lib.USER_DS, gates.flat_data(3)),
            (at["task_selector"], gates.tss_descriptor(at["rig_task"])),
        ):
            self._entry(gdt + (selector & ~7), entry)
        self._set_up_tasks()
        self._set_up_scratch_pair()
        self.vcpu.set_msrs(
            {
                SYSENTER_CS: lib.HOST_CS,
                SYSENTER_ESP: at["rig_stack"] + PAGE,
                SYSENTER_EIP: at["sysenter_entry"],
            }
        )
        self.area.mailbox.entry_offset = at["rig_entry"]
        lib.kvmhost_take(self.cpu.c)
        self.cpu.prepare(self.guest)

    def _entry(self, address: int, entry: gates.Entry) -> None:
        self.memory.u32[address // 4], self.memory.u32[address // 4 + 1] = entry

    def _tss(self, address: int) -> Any:
        return ffi.cast("struct kvmhost_tss *", ffi.cast("uint8_t *", self.memory.u8) + address)

    def _set_up_tasks(self) -> None:
        """The Host's task gets a stack for traps and a CR3 to come back to; the second one everything."""
        top = self.at["rig_stack"] + PAGE
        host, other = self._tss(self.area.tss), self._tss(self.at["rig_task"])
        host.esp0, host.cr3 = top, self.area.pdpt
        other.cr3, other.eip, other.eflags, other.esp = (
            self.area.pdpt,
            self.at["task_start"],
            EFLAGS_FIXED,
            top,
        )
        other.cs = lib.LGUEST_CS
        other.ss = other.ds = other.es = other.fs = other.gs = lib.HOST_DS
        other.io_bitmap_base = ffi.sizeof("struct kvmhost_tss")

    def _set_up_scratch_pair(self) -> None:
        """Its tables are copies of the Host's: what comes in while they are loaded goes the usual way."""
        pair, layout = self.at["rig_pair"], Layout.of("2.6.24", 6)
        u8 = ffi.cast("uint8_t *", self.memory.u8)
        state = StatePage(u8 + pair + PAGE, layout)
        state.set_up(
            load("hardened"),
            pair,
            host_cr3=self.area.pdpt,
            host_gdt=(8 * lib.GDT_ENTRIES - 1, self.area.gdt),
            host_idt=(8 * lib.IDT_ENTRIES - 1, IDT_AT),
        )
        ffi.memmove(state.guest_gdt, u8 + self.area.gdt, 8 * lib.GDT_ENTRIES)
        ffi.memmove(state.guest_idt, u8 + IDT_AT, 8 * lib.IDT_ENTRIES)
        state.clear_busy()
        self._scratch = Frame(u8 + pair, layout)
        self._scratch_mailbox = ffi.cast(
            "struct kvmhost_mailbox *",
            ffi.cast("uint8_t *", state.guest_gdt) + (self.area.mailbox_at - self.area.gdt),
        )

    def take_away(self) -> None:
        """Put back what was there before: the Machine is then one like any other."""
        for address, data in self._found:
            self.memory.write(address, data)
        text, end = self.at["rig_text"], self.at["rig_pages_end"]
        self.machine.host.take_text_back(text, end - text)
        self.area.mailbox.entry_offset = self.machine.blob.address("switch_to_guest")
        self.vcpu.set_msrs({SYSENTER_CS: 0, SYSENTER_ESP: 0, SYSENTER_EIP: 0})

    def close(self) -> None:
        """Take everything away again, and the Machine with it.  Twice is as good as once."""
        if self.machine.closed:
            return
        with ExitStack() as then:
            then.callback(self.machine.close)
            self.take_away()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- sampling -------------------------------------------------------------------

    def sample(self, body: str, loops: int, warm_up: int = WARM_UP) -> int:
        """Do a body of ring0.S so often; cycles, with those of the readings and of the loop.

        warm_up: how often it is done before, in the same run, and not timed.
        Raises Unmeasurable where it faults; the next sample finds the vCPU in order again.
        """
        self.order(body, loops, warm_up)
        self.run()
        return int(self.memory.u64[self.at["rig_sum"] // 8])

    def round_trip(self, loops: int, trap: Trap = Trap.GENERAL_PROTECTION) -> int:
        """The same for whole switches to the Guest, which comes back by a fault or by a hypercall.

        Raises Unmeasurable, also where it came back by anything else.
        """
        self.send_guest(trap)
        cycles = self.sample("round_trip", loops)
        if self.guest.frame.trapnum != trap:
            raise Unmeasurable(
                f"the Guest was to come back by {trap.name} and came back by "
                f"{Trap(self.guest.frame.trapnum).name}",
                cause=f"it was at {self.guest.frame.eip:#x}",
                next_step="this is a defect of kvmhost's: please report it",
            )
        return cycles

    def send_guest(self, trap: Trap) -> None:
        """Put the Guest in front of what it is to do."""
        self.guest.frame.eip = ENTRIES[trap]
        self.guest.frame.trapnum = lib.NO_TRAP

    def order(self, body: str, loops: int, warm_up: int = 0) -> None:
        """Say what the next run is to do."""
        words, at, scratch = self.memory.u32, self.at, self._scratch
        words[at["rig_left"] // 4] = warm_up or loops
        words[at["rig_timed"] // 4] = loops if warm_up else 0
        words[at["rig_body"] // 4] = at[f"body_{body}"]
        words[at["rig_other_root"] // 4] = at["rig_pdpt"]
        words[at["rig_switcher"] // 4] = self.machine.blob.address("switch_to_guest")
        words[at["rig_switcher"] // 4 + 1] = lib.LGUEST_CS
        scratch.clear()
        scratch.ebp = self.area.mailbox_at
        scratch.gs = scratch.fs = scratch.ds = scratch.es = at["ring1_ds"]
        for mailbox in (self.area.mailbox, self._scratch_mailbox):
            mailbox.fault_eip = 0

    def run(self) -> None:
        """Run to the Host's OUT, whatever signals come on the way.  Raises Unmeasurable for any other end."""
        while isinstance(left := self.vcpu.run(), ExitInterrupted):
            pass  # whoever sent it has been heard, or has raised; the body goes on where it was
        if not isinstance(left, ExitIo) or left.port != lib.PORT_LEAVE:
            raise self.lost(left)

    def lost(self, left: object) -> Unmeasurable:
        """What to raise when a run ended by anything but the Host's OUT; the vCPU is started anew."""
        what = f"it ended by {left}"
        if isinstance(left, ExitIo) and left.port == lib.PORT_HOST_FAULT:
            mailboxes = (self.area.mailbox, self._scratch_mailbox)
            told = next((each for each in mailboxes if each.fault_eip), mailboxes[0])
            what = (
                f"exception {told.fault_vector} at {self.place(told.fault_eip)}, "
                f"error code {told.fault_error:#x}, CR2 {told.fault_cr2:#x}"
            )
        body = self.place(self.memory.u32[self.at["rig_body"] // 4])
        self.vcpu.set_guest_debug()
        self.cpu.start()
        self._furnish_cpu()
        return Unmeasurable(
            f"{body} did not end as it should", cause=what, next_step="this CPU or this KVM cannot do it"
        )

    def place(self, address: int) -> str:
        """Name a linear address by the last symbol before it."""
        if not self.at["start_rig_text"] <= address < self.at["end_rig_text"]:
            return self.machine.blob.locate(address)
        places = sorted(((at, name) for name, at in self.at.items()), key=itemgetter(0))
        at, name = places[bisect_right(places, address, key=itemgetter(0)) - 1]
        return name if at == address else f"{name}+{address - at}"
