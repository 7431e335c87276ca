"""One Guest: its memory, its state block, its hooks.

Everything that decides how a Guest goes on lies in VM memory (its block: state,
register page, shadow tables), laid out in native/abi, so that ring-0 code can one
day share it.  This object is the Python view of that block, plus what is only
Python's: who listens, what it printed, how it ended.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from kvmhost._native import ffi, lib
from kvmhost.host import boot_tables, segments
from kvmhost.host.abi import DEFAULT, Abi
from kvmhost.host.cpuid import Registers
from kvmhost.host.errors import CLOSED, GuestBroke, HookError, KvmhostError
from kvmhost.host.interrupts import sanitise
from kvmhost.host.memory import VmMemory
from kvmhost.host.outcome import Outcome, OutcomeKind
from kvmhost.host.paging import ShadowTables
from kvmhost.host.traps import Trap
from kvmhost.host.vmcall import VmcallRewriter
from kvmhost.switcher.layout import Layout
from kvmhost.switcher.pair import Frame

if TYPE_CHECKING:
    from kvmhost.host.bus import Bus
    from kvmhost.host.clock import Alarm
    from kvmhost.host.cpu import Cpu
    from kvmhost.host.guest_trap import GuestTrap
    from kvmhost.host.lguest_data import LguestData
    from kvmhost.host.machine import Machine
    from kvmhost.host.watch import Watch

Handler = Callable[["GuestTrap"], object]

# An FXSAVE image as FNINIT and reset leave it: FCW 0x37F, MXCSR 0x1F80.
_FCW = 0x037F
_MXCSR = 0x1F80
_FXSAVE_MXCSR_AT = 24
PAGE = lib.PAGE_BYTES
# Where nearly every 32-bit kernel lives: 3 GiB for user space, 1 GiB above.
PAGE_OFFSET = 0xC0000000


class Ram:
    """A Guest's memory by Guest-physical address, for whoever loads an image or reads an argument.

    size: bytes, of RAM and of the device memory directly above it.  Raises GuestBroke for anything outside.
    """

    def __init__(self, memory: VmMemory, base: int, size: int) -> None:
        self._memory, self._base, self.size = memory, base, size

    def check(self, address: int, length: int) -> None:
        """Whether `length` bytes at `address` exist."""
        if address < 0 or length < 0 or address + length > self.size:
            raise GuestBroke(
                f"{length:#x} bytes at physical {address:#010x} are outside of memory",
                f"this Guest's memory ends at {self.size:#010x}",
            )

    def read(self, address: int, length: int) -> bytes:
        """Copy out."""
        self.check(address, length)
        return self._memory.read(self._base + address, length)

    def write(self, address: int, data: bytes) -> None:
        """Copy in."""
        self.check(address, len(data))
        self._memory.write(self._base + address, data)


class Guest:
    """A Guest of a Machine.  Made by Machine.add_guest (bare) or Machine.load (with an image).

    name: for people.  ram: its memory.  frame: its registers.  state: its block.  console: whoever
    wants what it prints (callables taking bytes).  bus: where its devices are, if it has any.
    outcome: None while it lives.  abi: the generation it speaks; abi_told: whether somebody said so, or it is
    an assumption that LGUEST_INIT may correct.  page_offset, pae: what a Guest of 2.6.30 to 3.0 is given
    page tables for before it runs.
    """

    def __init__(
        self,
        machine: Machine,
        name: str,
        block: int,
        mem_base: int,
        mem_bytes: int,
        layout: Layout,
        cpuid: dict[int, Registers],
        abi: Abi | None = None,
        page_offset: int = PAGE_OFFSET,
        pae: bool = False,
        device_bytes: int = 0,
    ) -> None:
        self.machine = machine
        self.name = name
        self.memory = machine.memory
        self.block = block
        self.cpuid = cpuid
        self.abi = DEFAULT if abi is None else abi
        self.abi_told = abi is not None
        self.page_offset = page_offset
        self.pae = pae
        self.tsc_khz = 0  # what LGUEST_INIT is told; 0: not to be used as a clock
        self.console: list[Callable[[bytes], object]] = []
        self.hooks: dict[int, list[Handler]] = {}
        self.unhandled: Callable[[GuestTrap, str], bool] | None = None
        self.watch: Watch | None = None
        self.hooked: Counter[Trap] = Counter()  # how often handlers were asked
        self.interruptions = 0  # how often the shim came back because somebody wanted attention
        self.outcome: Outcome | None = None
        self.condemned: GuestBroke | None = None
        self.ending = False  # there is an outcome, or will be at the next look
        self.data: LguestData | None = None
        self.bus: Bus | None = None
        self.cpu: Cpu | None = None
        self.cpus_seen: set[int] = set()
        self.moves = 0
        base = ffi.cast("uint8_t *", self.memory.u8)
        self.state: Any = ffi.cast("struct kvmhost_guest *", base + block + lib.GUEST_STATE_OFFSET)
        self.irqs_address: Any = ffi.addressof(self.state, "irqs_pending")
        self.registers_at = block + lib.GUEST_REGS_OFFSET
        self.fxsave_at = block + lib.GUEST_STATE_OFFSET + lib.GUEST_FXSAVE_OFFSET
        self.frame = Frame(base + self.registers_at, layout)
        self.trapnum = ffi.cast("uint32_t *", base + self.registers_at + lib.TRAPNUM_OFFSET)
        self.ram = Ram(self.memory, mem_base, mem_bytes + device_bytes)
        self._alarm: Alarm | None = None
        self._alarms = 0
        self._rings_at = 0
        self._alarm_lock = threading.Lock()
        self._boot_state(mem_base, mem_bytes, device_bytes)
        self.tables = ShadowTables(self.memory, block, self.state)
        if self.abi.vmcall:
            self.tables.executable = VmcallRewriter(self).executable

    def _boot_state(self, mem_base: int, mem_bytes: int, device_bytes: int) -> None:
        """Everything as at power-on: abi 9.2 for registers, the linear mode for tables."""
        state = self.state
        state.mem_base, state.mem_bytes = mem_base, mem_bytes
        state.limit_bytes = mem_bytes + device_bytes
        state.data = lib.NO_DATA
        state.linear = 1
        for index in range(lib.GUEST_ROOTS):
            state.pgdir[index] = lib.NO_PGDIR
        state.last_cpu = lib.MAX_CPUS
        state.changed = lib.CHANGED_ALL
        state.ss1 = lib.GUEST_DS
        segments.boot_gdt(state)
        image = ffi.cast("uint16_t *", state.fxsave)
        image[0] = _FCW
        ffi.cast("uint32_t *", state.fxsave)[_FXSAVE_MXCSR_AT // 4] = _MXCSR
        frame = self.frame
        frame.clear()
        frame.cs = lib.GUEST_CS
        frame.ds = frame.es = frame.ss = lib.GUEST_DS
        frame.eflags = sanitise(0)

    def set_entry(self, eip: int) -> None:
        """Where the first instruction is; its linear address is its physical one in every generation.

        To be called when everything else is in memory: up to 3.0 a Guest's first page tables are made
        here, from what its boot parameters say.  Raises BootError if there is no room for them.
        """
        boot_tables.build(self)
        self.frame.eip = eip

    # ---- hooks ----------------------------------------------------------------

    def on(self, kind: int) -> Callable[[Handler], Handler]:
        """Register a handler for a kind of trap; a decorator.

        The newest handler is asked; its trap.default() asks the one before it, and in the end the
        Host.  A hook wins over every faster way: a direct gate of that kind is bounced until the
        hook is removed.
        """
        kind = Trap(kind)

        def register(handler: Handler) -> Handler:
            self.hooks.setdefault(kind, []).append(handler)
            self._hooks_changed()
            return handler

        return register

    def off(self, kind: int, handler: Handler) -> None:
        """Remove a handler again.  Raises ValueError if it is not there."""
        handlers = self.hooks.get(Trap(kind), [])
        handlers.remove(handler)
        if not handlers:
            del self.hooks[Trap(kind)]
        self._hooks_changed()

    def _hooks_changed(self) -> None:
        """Gates become bounced or direct; a Guest that is running is made to come by for them."""
        if self.state is CLOSED:
            return
        segments.flag(self.state, lib.CHANGED_IDT)
        self.machine.wake(self)

    # ---- memory by the Guest's own tables -----------------------------------------

    def _runs(self, linear: int, length: int) -> list[tuple[int, int]]:
        """Guest-physical (address, length) pieces behind a linear range, up to the first hole."""
        pieces = []
        linear &= 0xFFFFFFFF
        while length > 0:
            physical = self.tables.translate(linear)
            if physical is None or physical >= self.state.limit_bytes:
                break
            size = min(length, PAGE - linear % PAGE, self.state.limit_bytes - physical)
            pieces.append((physical, size))
            linear, length = (linear + size) & 0xFFFFFFFF, length - size
        return pieces

    def read_linear(self, linear: int, length: int) -> bytes:
        """Read by linear address; shorter than asked where the Guest's tables end."""
        return b"".join(self.ram.read(at, size) for at, size in self._runs(linear, length))

    def write_linear(self, linear: int, data: bytes) -> None:
        """Write by linear address.  Raises GuestBroke, with nothing written, where tables end."""
        pieces = self._runs(linear, len(data))
        if sum(size for _, size in pieces) != len(data):
            raise GuestBroke(f"{len(data)} bytes at linear {linear & 0xFFFFFFFF:#010x} are not all mapped")
        for at, size in pieces:
            self.ram.write(at, data[:size])
            data = data[size:]

    def read_physical(self, address: int, length: int) -> bytes:
        """Read an argument of a hypercall.  Raises GuestBroke for an address outside of memory."""
        return self.ram.read(address, length)

    def read_text(self, address: int, most: int) -> str:
        """A NUL-terminated text of at most `most` bytes; may end with RAM."""
        return self.read_physical_until_nul(address, most).decode("latin-1")

    def read_physical_until_nul(self, address: int, most: int) -> bytes:
        """Bytes up to a NUL, to `most`, or to the end of RAM, whichever comes first."""
        self.ram.check(address, 1)
        return self.ram.read(address, min(most, self.ram.size - address)).split(b"\0")[0]

    # ---- what hypercalls change --------------------------------------------------

    def end(self, kind: OutcomeKind, reason: str, report: str | None = None) -> None:
        """The Guest is over; only the first reason is kept."""
        if self.outcome is None:
            self.outcome = Outcome(kind, reason, report)
            self.ending = True
            self.set_clock(0)

    def end_from_outside(self, reason: str, advice: str = "") -> None:
        """Another thread found that this Guest broke a rule: a device whose ring makes no sense.

        The Guest is killed, and the report made, by the thread of its vCPU as soon as it looks; one that
        is halted, or not running now, is looked at then.  Only the first reason is kept.
        """
        with self._alarm_lock:
            if self.condemned is None:
                self.condemned = GuestBroke(reason, advice)
                self.ending = True
        self.machine.wake(self)

    def write_console(self, text: bytes) -> None:
        """The Guest said something.  From any thread.

        Raises HookError for a listener that raised, but lets an OSError through: its output is full or gone.
        """
        for listener in self.console:
            try:
                listener(text)
            except (OSError, KvmhostError):
                raise
            except Exception as error:
                raise HookError(
                    f"a listener on the console of {self.name} raised {type(error).__name__}",
                    cause=str(error),
                    next_step="mend what was appended to guest.console",
                ) from error

    def set_clock(self, nanoseconds: int) -> None:
        """SET_CLOCKEVENT: interrupt 0 in so many nanoseconds; 0 cancels; a new call replaces."""
        when = time.monotonic_ns() + nanoseconds if nanoseconds else 0
        with self._alarm_lock:
            self._order_clock(when)

    def _order_clock(self, when: int) -> None:
        """Interrupt 0 at `when`, nanoseconds of time.monotonic_ns(), or never if it is 0.  Under the lock.

        While the Guest is on a vCPU that one's alarm clock rings, which wakes no Python; else the machine's.
        """
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._alarms += 1
        if self.cpu is not None:
            self.cpu.ring(self.irqs_address, when)
        elif when:
            ring = partial(self._clock_rings, self._alarms)
            self._alarm = self.machine.clock.after(max(0, when - time.monotonic_ns()) / 1e9, ring)
            self._rings_at = when

    def _clock_rings(self, order: int) -> None:
        """An alarm may be on its way here when a newer call replaces it; then it is nobody's."""
        with self._alarm_lock:
            if order != self._alarms:
                return
            self._alarm = None
        self.post(0)

    def move(self, cpu: Cpu | None) -> None:
        """Come to a vCPU, or with None leave the one it is on; a clock event still to come moves along."""
        with self._alarm_lock:
            if self.cpu is not None:
                when = self.cpu.ring(self.irqs_address, 0)
            else:
                when = 0 if self._alarm is None else self._rings_at
            self.cpu = cpu
            if when:
                self._order_clock(when)

    def post(self, irq: int) -> None:
        """Raise virtual interrupt `irq` (0 to 31, vector 32 + irq).  From any thread.

        Raises KvmhostError for a number that is none, and once the Machine is closed.
        """
        if not 0 <= irq < lib.LGUEST_IRQS:
            raise KvmhostError(
                f"there is no virtual interrupt {irq}", next_step=f"name one from 0 to {lib.LGUEST_IRQS - 1}"
            )
        if self.irqs_address is CLOSED:
            raise KvmhostError("this Machine is closed", next_step="post inside its with block")
        lib.kvmhost_set_bits(self.irqs_address, 1 << irq)
        self.machine.wake(self)

    def forget_memory(self) -> None:
        """The memory is about to go: what pointed into it must not be followed any more."""
        self.state = self.frame = self.trapnum = self.tables = self.irqs_address = CLOSED  # type: ignore[assignment]
        self.data = None

    def __repr__(self) -> str:
        life = "alive" if self.outcome is None else self.outcome.kind.value
        return f"<Guest {self.name}: {self.ram.size >> 20} MiB, abi {self.abi.name}, {life}>"

    # ---- running --------------------------------------------------------------

    def run(self, timeout: float | None = None) -> Outcome:
        """Run the machine until this Guest is over.  `timeout` in seconds.

        Raises HookError if a handler raised, MachineBroken if the VM was lost.
        """
        return self.machine.run(timeout=timeout, until=self)[self]
