"""The half of the kvm runner that has its hands on a vCPU.

It runs where /dev/kvm is, which may be a lab, and Python is slow there.  So it knows nothing of rows and
expectations: it is told a batch of cases that are laid out already, lets the monitor play them, and gives the
memory back.  Orders and memory are files in a folder that both sides see; standard input has a line with the
place of each order, which may come while the one before is under way, and answers leave as lines of JSON.

Most batches are one KVM_RUN.  A case with an event is stopped before its first instruction, by an OUT to
CONFORM_PORT_EXTERNAL; then a HLT is planted where the event is due.  At ring 0 it leaves the VM without a
trace, which a single step does not: that one shows in every image of the flags that is pushed on the way
(catalogue, DV-12).
"""

from __future__ import annotations

import json
import mmap
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kvmhost._native import ffi, lib
from kvmhost.kvm import (
    Cap,
    CpuidEntry,
    Events,
    ExitDebug,
    ExitHlt,
    ExitInterrupted,
    ExitIo,
    ExitIrqWindowOpen,
    ExitMmio,
    ExitShutdown,
    Kvm,
    KvmError,
    MpState,
    Regs,
    Sregs,
    Vcpu,
    Vm,
)

from .flat import flat
from .steps import Steps

PAGE = int(lib.CONFORM_PAGE)
PORT_REPORT = int(lib.PORT_SWITCHER_FAULT)
HLT, PUSHF = 0xF4, 0x9C
TF = 0x100
# Where linear is not physical: the Switcher's text.
SWITCHER, SWITCHER_BYTES = int(lib.SWITCHER_BASE), 2 * PAGE
STATE_PAGE = SWITCHER + 2 * PAGE
KVM_LEAVES = range(0x40000000, 0x40010000)
# What a snapshot takes along of the model-specific registers, as far as KVM has them: SYSENTER, PAT,
# DEBUGCTL, MISC_ENABLE, STAR (Intel SDM vol. 4; AMD APM vol. 2, appendix A).
MSRS = (0x174, 0x175, 0x176, 0x277, 0x1D9, 0x1A0, 0xC0000081)
TICK_SECONDS = 0.25
# A program in full may take long, but not longer than this.
BEAT_SECONDS, BEATS = 60, 30
# What a snapshot leaves behind: a byte that is HLT to whoever executes it.
SPOILED = b"\xf4"
# Where the monitor and the arena are; behind them the batch.
_ARENA_BYTES = int(lib.CONFORM_ARENA_PAGES) * PAGE
USED = (
    (int(lib.CONFORM_TEXT), int(lib.CONFORM_SHADOW) + _ARENA_BYTES),
    (int(lib.CONFORM_ARENA), int(lib.CONFORM_ARENA) + _ARENA_BYTES),
)
# Steps after which a place counts as one that will not be reached.
MOST_STEPS = 20_000
SEGMENTS = {"cs": "cs", "ss": "ss", "ds": "ds", "es": "es", "fs": "fs", "gs": "gs", "tr": "tr", "ldtr": "ldt"}
PARTS = ("base", "limit", "selector", "type", "present", "dpl", "db", "s", "l", "g", "avl", "unusable")


class NeverReached(Exception):
    """The case ended before its event was due."""


def _offset(field: str) -> int:
    return int(lib.CONFORM_HEADER) + int(ffi.offsetof("struct conform_header", field))


CURRENT, STATE, REASON = _offset("current"), _offset("state"), _offset("reason")
PHASE = int(lib.CONFORM_SAVE) + int(ffi.offsetof("struct conform_saved", "phase"))


class Player:
    """Plays one batch in a VM of its own."""

    def __init__(self, kvm: Kvm, cpuid: tuple[CpuidEntry, ...], order: dict[str, Any]) -> None:
        self.kvm = kvm
        self.cpuid = cpuid
        self.order = order
        self.external: dict[str, Any] = order.get("external", {})
        self.details: dict[str, dict[str, Any]] = {}
        self.runs = 0
        self.starts = 0
        self.run_seconds = 0.0
        self.amd = order["vendor"] == "AuthenticAMD"
        self.memory = mmap.mmap(-1, order["size"])
        self.spare: mmap.mmap | None = None
        self.vm, self.vcpu = self._machine()
        self._fresh = self.vcpu.sregs()
        # None where nobody wants to know the way.
        self.trail = Steps(self.memory, order["traced"], self._physical) if order.get("traced") else None
        self._place: tuple[int, int] = (-1, -1)
        self._since = time.monotonic()

    # ---- the machine ----------------------------------------------------------------

    def _machine(self) -> tuple[Vm, Vcpu]:
        vm = self.kvm.create_vm()
        try:
            vm.set_identity_map_addr(lib.KVM_IDENTITY_MAP_BASE)
            vm.set_tss_addr(lib.KVM_TSS_BASE)
            vm.add_memory(0, len(self.memory), self.memory)
            if vm.check_extension(Cap.EXIT_ON_EMULATION_FAILURE):
                vm.enable_cap(Cap.EXIT_ON_EMULATION_FAILURE, 1)
            vcpu = vm.create_vcpu(0)
            vcpu.set_cpuid(self.cpuid)
        except BaseException:
            vm.close()
            raise
        return vm, vcpu

    def close(self) -> None:
        self.vm.close()
        for memory in (self.memory, self.spare):
            if memory is not None:
                memory.close()

    def _start(self) -> None:
        """The vCPU as the monitor wants it: flat, unpaged, ring 0.  TR is the monitor's to load."""
        self.starts += 1
        vcpu = self.vcpu
        vcpu.set_mp_state(MpState.RUNNABLE)
        vcpu.set_events(Events())
        sregs = vcpu.sregs()
        data = flat(3, lib.CONFORM_DS)
        vcpu.set_sregs(
            replace(
                sregs,
                cs=flat(11, lib.CONFORM_CS), ds=data, es=data, fs=data, gs=data, ss=data,
                cr0=0x31, cr2=0, cr3=0, cr4=0, efer=0,
                tr=replace(sregs.tr, type=9 if self.amd else 11),
            )
        )  # fmt: skip
        vcpu.set_regs(Regs(rip=lib.CONFORM_TEXT, rflags=2))

    # ---- playing ----------------------------------------------------------------------

    def play(self, heard: Callable[[int], None]) -> None:
        """Until the monitor says that all cases are over; heard gets the number of those that are."""
        folder = Path(self.order["folder"])
        with (folder / self.order["image"]).open("rb") as image:
            for address, size in self.order["pieces"]:
                self.memory[address : address + size] = image.read(size)
        self._start()
        while not self._over(self._run(), heard):
            pass
        with (folder / self.order["answer"]).open("wb") as answer:
            for address, size in self.order["results"]:
                answer.write(self.memory[address : address + size])

    def _run(self) -> Any:
        before = time.perf_counter()
        left = self.vcpu.run()
        self.run_seconds += time.perf_counter() - before
        self.runs += not isinstance(left, ExitInterrupted)
        return left

    def _over(self, left: Any, heard: Callable[[int], None]) -> bool:
        if isinstance(left, ExitIo) and left.port == lib.CONFORM_PORT_END:
            return True
        if isinstance(left, ExitInterrupted):
            self._tick(heard)
        elif isinstance(left, ExitIo) and left.port == lib.CONFORM_PORT_EXTERNAL:
            self._external()
        elif not self._harmless(left):
            self._ended(left)
        return False

    def _harmless(self, left: Any) -> bool:
        """A device that is not there: writes vanish, reads are all ones."""
        if isinstance(left, ExitIo) and left.port != PORT_REPORT:
            if not left.is_write:
                self.vcpu.answer(b"\xff" * (left.size * left.count))
            return True
        if isinstance(left, ExitMmio):
            if not left.is_write:
                self.vcpu.answer(b"\xff" * left.length)
            return True
        return False

    def _ended(self, left: Any) -> None:
        """The case is over in a way that the monitor has not seen; it is started again and told."""
        reason = 0
        if isinstance(left, ExitIo):
            reason = lib.CONFORM_REPORT
        elif isinstance(left, ExitHlt | ExitInterrupted):
            # A HLT that nothing ends would hang as well, on an engine that is a program.
            reason = lib.CONFORM_TIMEOUT
        elif not isinstance(left, ExitShutdown):
            reason = lib.CONFORM_TIMEOUT
            self._note("broken", f"KVM left the VM by {left}")
        self._put(REASON, reason)
        self._start()

    def _tick(self, heard: Callable[[int], None]) -> None:
        """Now and then a signal ends KVM_RUN: time to see whether anything goes on."""
        place = (self._word(CURRENT), self._word(STATE))
        heard(place[0])
        if place != self._place:
            self._place, self._since = place, time.monotonic()
        elif time.monotonic() - self._since > self.order["patience"]:
            self._since = time.monotonic()
            self._put(REASON, lib.CONFORM_TIMEOUT)
            self._start()

    # ---- events -----------------------------------------------------------------------

    def _external(self) -> None:
        """A case that is external stands at its first instruction, or in the collector."""
        current = self._word(CURRENT)
        wanted = self.external.get(str(current))
        if wanted is None:
            return
        self.vcpu.complete()
        if self._word(PHASE) == lib.CONFORM_PHASE_END:
            if wanted.get("hidden") and "hidden" not in self._noted(current):
                self._noted(current)["hidden"] = self._hidden()
            return
        self.vcpu.set_events(Events())
        event = wanted.get("event")
        try:
            while event is not None:
                self._reach(event)
                self._raise(event, current)
                event = event.get("after")
            if self.trail is not None:
                self._follow()
        except NeverReached as why:
            self._note("broken", f"the place of its event was never reached: {why}")
        finally:
            if self.trail is not None:
                self.trail.lift()
                self._noted(current)["trail"] = list(self.trail.places)

    def _follow(self) -> None:
        """Go through the rest of a case in single steps, to our collector; it began on that page, too."""
        own = False
        for _ in range(MOST_STEPS):
            here = self.vcpu.regs().rip & -PAGE == self.order["collector"]
            if here and own:
                return
            own = not here
            self._step()

    def _reach(self, event: dict[str, Any]) -> None:
        """Stop the vCPU just before the instruction at which an event is due."""
        if event.get("steps") is not None:
            for _ in range(event["steps"]):
                self._step()
            return
        at = event["at"]
        if at is None:
            return
        for hit in range(event.get("hit", 1)):
            if hit:
                self._step()
            if self._plantable(at):
                self._run_to(at)
            else:
                self._step_to(at)

    def _plantable(self, at: int) -> bool:
        """Ring 0 alone may HLT: not on the pages that hold the Guest's code; nor where steps are wanted."""
        low, high = self.order["guest"]
        return self.trail is None and not low <= at < high

    def _physical(self, linear: int) -> int:
        if linear >= STATE_PAGE:
            return linear - STATE_PAGE + int(self.order["state"])
        return linear - SWITCHER + int(self.order["switcher"]) if linear >= SWITCHER else linear

    def _run_to(self, at: int) -> None:
        if self.vcpu.regs().rip == at:
            return
        place = self._physical(at)
        original = self.memory[place]
        self.memory[place] = HLT
        try:
            left = self._run_silently()
        finally:
            self.memory[place] = original
        regs = self.vcpu.regs()
        if not isinstance(left, ExitHlt) or regs.rip != at + 1:
            self._lost(left)
        self.vcpu.set_regs(replace(regs, rip=at))

    def _step_to(self, at: int) -> None:
        for _ in range(MOST_STEPS):
            if self.vcpu.regs().rip == at:
                return
            self._step()
        raise NeverReached(f"{MOST_STEPS} steps did not lead to {at:#x}")

    def _step(self) -> None:
        """One instruction.  KVM forgets about stepping at an IRET, so it is told each time.

        KVM steps by the real TF, so the image that a PUSHF leaves shows it (catalogue, DV-12): it is mended.
        """
        rip = self.vcpu.regs().rip
        if self.trail is not None:
            idt = self.vcpu.sregs().idt
            self.trail.before(rip, idt.base, idt.limit)
        place = self._physical(rip)
        pushes_flags = place < len(self.memory) and self.memory[place] == PUSHF
        self.vcpu.set_guest_debug(single_step=True)
        try:
            left = self._run_silently()
        finally:
            self.vcpu.set_guest_debug()
            if self.trail is not None:
                self.trail.after()
        if not isinstance(left, ExitDebug) and not self._in_a_handler(left):
            self._lost(left)
        if pushes_flags:
            image = self._physical(self.vcpu.regs().rsp)
            self._put(image, self._word(image) & ~TF)

    def _in_a_handler(self, left: Any) -> bool:
        """Whether a step has ended at a handler's first instruction: TF does not follow there."""
        if self.trail is None or not isinstance(left, ExitHlt):
            return False
        regs = self.vcpu.regs()
        at = self.trail.landed(regs.rip)
        if at is not None:
            self.vcpu.set_regs(replace(regs, rip=at))
        return at is not None

    def _run_silently(self) -> Any:
        """Until the vCPU leaves by itself; ExitInterrupted if it hangs on the way."""
        end = time.monotonic() + self.order["patience"]
        while isinstance(left := self._run(), ExitInterrupted) and time.monotonic() < end:
            pass
        return left

    def _lost(self, left: Any) -> None:
        """The case ended on the way.  What ended it is dealt with as ever."""
        if isinstance(left, ExitIo) and left.port == lib.CONFORM_PORT_EXTERNAL:
            self.vcpu.complete()
        elif not self._harmless(left):
            self._ended(left)
        raise NeverReached("the case hangs" if isinstance(left, ExitInterrupted) else str(left))

    def _raise(self, event: dict[str, Any], current: int) -> None:
        kind = event["kind"]
        if kind == "nmi":
            for _ in range(event.get("count", 1)):
                self.vcpu.nmi()
        elif kind == "intr":
            self._interrupt(event["vector"])
        elif kind == "snapshot":
            self._snapshot(event.get("left_out", ()))
        elif kind == "inspect":
            self._noted(current)["hidden"] = self._hidden()
            self._set_back(event.get("left_out", ()))
        elif kind != "trace":
            raise NeverReached(f"this runner raises no {kind}")

    def _interrupt(self, vector: int) -> None:
        """As a PIC would: the request stays until the CPU can take it (catalogue, INT-003)."""
        self.vcpu.request_interrupt_window()
        try:
            left = self._run_silently()
        finally:
            self.vcpu.request_interrupt_window(False)
        if not isinstance(left, ExitIrqWindowOpen):
            self._lost(left)
        self.vcpu.interrupt(vector)

    # ---- state --------------------------------------------------------------------------

    def _hidden(self) -> dict[str, dict[str, int]]:
        """What no instruction shows: the cached parts of the segment registers."""
        sregs = self.vcpu.sregs()
        return {
            name: {part: int(getattr(getattr(sregs, field), part)) for part in PARTS}
            for name, field in SEGMENTS.items()
        }

    def _set_back(self, left_out: Sequence[str]) -> None:
        """What KVM gives it must take, and then give again (catalogue, KVM-001)."""
        before = self.vcpu.sregs()
        self.vcpu.set_sregs(self._settable(_without(before, left_out, self._fresh)))
        after = self.vcpu.sregs()
        if after != before:
            changed = [name for name in before.__slots__ if getattr(before, name) != getattr(after, name)]
            self._note(
                "broken", f"after KVM_SET_SREGS of what KVM_GET_SREGS gave, {', '.join(changed)} differ"
            )

    def _settable(self, sregs: Sregs) -> Sregs:
        """The lab's silicon takes TR for available only (see the catalogue, KVM-003), VMX for busy only."""
        return replace(sregs, tr=replace(sregs.tr, type=9)) if self.amd else sregs

    def _snapshot(self, left_out: Sequence[str]) -> None:
        """Save all there is, and go on in a new VM that has nothing of the old one but that (SNP-001).

        left_out: what a planted defect loses, the general registers or a field of the special ones.
        """
        old = self.vcpu
        regs, sregs, debugregs, events = old.regs(), old.sregs(), old.debugregs(), old.events()
        xcrs, xsave = old.xcrs(), old.xsave()
        msrs = old.msrs(self.order["msrs"])
        self.vm.close()
        self._move()
        self.vm, self.vcpu = self._machine()
        new = self.vcpu
        if xcrs:
            new.set_xcrs(xcrs)
        new.set_xsave(xsave)
        new.set_sregs(self._settable(_without(sregs, left_out, self._fresh)))
        if "regs" not in left_out:
            new.set_regs(regs)
        new.set_msrs(msrs)
        new.set_debugregs(debugregs)
        new.set_events(events)
        new.set_mp_state(MpState.RUNNABLE)

    def _move(self) -> None:
        """To other memory, with a copy of all that is in use.

        Two pieces take turns: new memory each time would cost a fault for each of its pages.  What is left
        is spoiled, so nothing goes on in it unnoticed.
        """
        old, new = self.memory, self.spare or mmap.mmap(-1, len(self.memory))
        last = max(address + size for address, size in self.order["pieces"])
        for begin, end in (*USED, (int(lib.CONFORM_BATCH), last)):
            new[begin:end] = old[begin:end]
            old[begin:end] = SPOILED * (end - begin)
        self.memory, self.spare = new, old

    def _word(self, address: int) -> int:
        return int.from_bytes(self.memory[address : address + 4], "little")

    def _put(self, address: int, value: int) -> None:
        self.memory[address : address + 4] = value.to_bytes(4, "little")

    def _noted(self, index: int) -> dict[str, Any]:
        return self.details.setdefault(str(index), {})

    def _note(self, outcome: str, detail: str) -> None:
        self._noted(self._word(CURRENT)).update(outcome=outcome, detail=detail)


def _without(sregs: Sregs, left_out: Sequence[str], fresh: Sregs) -> Sregs:
    """Special registers of which some are as in a vCPU that has just been made."""
    return replace(sregs, **{name: getattr(fresh, name) for name in left_out if name in sregs.__slots__})


@contextmanager
def ticking() -> Iterator[None]:
    """A signal every now and then, which ends KVM_RUN and does nothing else."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, TICK_SECONDS, TICK_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _parameters() -> dict[str, str]:
    """Module parameters that decide what kind of environment this is, as far as they can be read."""
    found = {}
    for module, names in (
        ("kvm", ("force_emulation_prefix",)),
        ("kvm_amd", ("npt", "vnmi", "nested")),
        ("kvm_intel", ("ept", "unrestricted_guest", "vnmi", "emulate_invalid_guest_state", "nested")),
    ):
        for name in names:
            try:
                text = Path(f"/sys/module/{module}/parameters/{name}").read_text()
            except OSError:
                continue
            found[f"{module}.{name}"] = text.strip()
    return found


def _cpu() -> dict[str, str]:
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    return {key.strip(): value.strip() for key, _, value in reversed(lines) if key.strip()}


def hello(kvm: Kvm) -> dict[str, Any]:
    """What this place is."""
    cpu = _cpu()
    return {
        "api": kvm.api_version,
        "vendor": cpu.get("vendor_id", ""),
        "cpu": cpu.get("model name", ""),
        "hypervisor": "hypervisor" in cpu.get("flags", "").split(),
        "kernel": platform.release(),
        "parameters": _parameters(),
    }


def say(**answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Orders in, answers out, until there are none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever gives the orders says when it is over
    try:
        with Kvm() as kvm:
            cpuid = tuple(entry for entry in kvm.supported_cpuid() if entry.function not in KVM_LEAVES)
            indices = kvm.msr_indices()
            greeting = hello(kvm)
            here = {"vendor": greeting["vendor"], "msrs": [n for n in MSRS if n in indices]}
            say(hello=greeting)
            for line in sys.stdin:
                _serve(kvm, cpuid, json.loads(Path(line.rstrip("\n")).read_bytes()) | here)
    except KvmError as error:
        say(error={"message": str(error.operation), "cause": error.cause, "next_step": error.next_step})
        return 3
    return 0


@contextmanager
def alive() -> Iterator[None]:
    """Say so every now and then while a program runs; not for ever, for it may hang.

    A thread, as a signal would end KVM_RUN and count among what a program measures.
    """
    over = threading.Event()

    def tell() -> None:
        for _ in range(BEATS):
            if over.wait(BEAT_SECONDS):
                return
            say(alive=True)

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _serve(kvm: Kvm, cpuid: tuple[CpuidEntry, ...], order: dict[str, Any]) -> None:
    if "program" in order:
        from .programs import run

        with alive():
            values = run(order["program"], kvm, cpuid, {**order["parameters"], "vendor": order["vendor"]})
        say(values=values)
        return
    player = Player(kvm, cpuid, order)
    started = time.perf_counter()
    try:
        with ticking():
            player.play(lambda current: say(current=current))
        say(
            done=order["answer"],
            details=player.details,
            runs=player.runs,
            starts=player.starts,
            run_seconds=player.run_seconds,
            seconds=time.perf_counter() - started,
        )
    finally:
        player.close()


if __name__ == "__main__":
    raise SystemExit(main())
