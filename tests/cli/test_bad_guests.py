"""Guests that misbehave: each dies alone, with its reason and exit code 1, and everything is given back.

The commands run in this process, one after the other, for a Python that starts in the lab takes its time.
The Guests are a few instructions each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli.elves import (
    BEGIN,
    DATA,
    FLUSH_ASYNC,
    HALT,
    INIT,
    LOAD_AT,
    LOAD_GDT_ENTRY,
    LOAD_IDT_ENTRY,
    LOAD_TLS,
    NEW_PGTABLE,
    NOTIFY,
    NOWHERE,
    PGDIR,
    SET_STACK,
    SHUTDOWN,
    STACK_TOP,
    TEXT,
    gate,
    hypercall,
    image,
    mov,
    run,
)

from kvmhost.cli import main
from kvmhost.cli.failures import DONE, GUEST_FAILED, INTERRUPTED, USAGE

pytestmark = pytest.mark.lab

SELF = b"\xeb\xfe"
UD2 = b"\x0f\x0b"
PUSH_EAX = b"\x50"
TO_EAX = b"\xff\xe0"


@dataclass(frozen=True)
class Bad:
    """What a Guest does, what must be said about it, and what is on its command line besides."""

    code: bytes
    reason: str
    options: tuple[str, ...] = ()


BAD = {
    "jumps to nowhere": Bad(mov("eax", NOWHERE) + TO_EAX, "address 0xe0000000 lies beyond its"),
    "jumps to nowhere after INIT": Bad(
        BEGIN + mov("eax", NOWHERE) + TO_EAX, "address 0xe0000000 lies beyond"
    ),
    "jumps to nowhere in tables of its own": Bad(
        BEGIN + hypercall(NEW_PGTABLE, PGDIR) + mov("eax", NOWHERE) + TO_EAX, r"unhandled trap 14.*0xe0000000"
    ),
    "jumps into the Switcher": Bad(BEGIN + mov("eax", 0xFFC00000) + TO_EAX, r"unhandled trap"),
    "is no code at all": Bad(UD2, r"unhandled trap 6"),
    "faults in the handler of its fault": Bad(
        # The handler of page faults lies nowhere, so each fault brings the next, until the stack is through.
        # A CPU of its own would have shut down at the third.
        BEGIN
        + gate(14, NOWHERE)
        + gate(6, NOWHERE)
        + hypercall(NEW_PGTABLE, PGDIR)
        + mov("esp", LOAD_AT + 0x800)
        + UD2,
        "its kernel stack at 0x000ffffc cannot be written",
    ),
    "faults with gates and without a stack": Bad(
        BEGIN + gate(6, LOAD_AT) + mov("esp", NOWHERE) + UD2, r"its kernel stack at 0xdffffff4 cannot be"
    ),
    "unmaps its stack": Bad(
        BEGIN + hypercall(NEW_PGTABLE, PGDIR) + PUSH_EAX, r"unhandled trap 14.*0x0008fffc"
    ),
    "unmaps its stack and takes a trap": Bad(
        BEGIN + gate(6, LOAD_AT) + hypercall(NEW_PGTABLE, PGDIR) + UD2,
        r"its kernel stack at 0x0008fff4 cannot",
    ),
    "names a stack that is nowhere": Bad(BEGIN + hypercall(SET_STACK, 0x69, NOWHERE, 1), r"stack|0xdffff"),
    "names a stack of the Host's ring": Bad(
        BEGIN + hypercall(SET_STACK, 0x68, STACK_TOP, 1), r"SET_STACK with sel"
    ),
    "names a stack of three pages": Bad(
        BEGIN + hypercall(SET_STACK, 0x69, STACK_TOP, 3), r"SET_STACK with 3"
    ),
    "loops for ever": Bad(SELF, r"timed out", ("--timeout", "0.3")),
    "loops for ever after INIT": Bad(BEGIN + SELF, r"timed out", ("--timeout", "0.3")),
    "calls for ever": Bad(BEGIN + b"\xcd\x1f\xeb\xfc", r"timed out|LGUEST_INIT twice", ("--timeout", "0.3")),
    "sleeps for ever": Bad(BEGIN + hypercall(HALT), r"timed out", ("--timeout", "0.3")),
    "calls a number that does not exist": Bad(BEGIN + hypercall(99), r"unknown hypercall 99"),
    "calls the largest number": Bad(BEGIN + hypercall(0xFFFFFFFF), r"unknown hypercall 4294967295"),
    "calls number 3, long gone": Bad(BEGIN + hypercall(3), r"unknown hypercall 3"),
    "calls before INIT": Bad(mov("esp", STACK_TOP) + hypercall(HALT), r"HALT before LGUEST_INIT"),
    "calls INIT twice": Bad(BEGIN + hypercall(INIT, DATA), r"LGUEST_INIT twice"),
    "calls INIT with an address outside": Bad(hypercall(INIT, NOWHERE), rf"lguest_data at {NOWHERE:#010x}"),
    "calls INIT with an odd address": Bad(hypercall(INIT, DATA + 1), r"lguest_data at"),
    "calls INIT at the last bytes": Bad(hypercall(INIT, 0x3FFFFFC), r"lguest_data at 0x03fffffc"),
    "prints from outside its memory": Bad(BEGIN + hypercall(NOTIFY, NOWHERE), r"outside of memory"),
    "prints from the last address": Bad(BEGIN + hypercall(NOTIFY, 0xFFFFFFFF), r"outside of memory"),
    "ends with a text from outside": Bad(BEGIN + hypercall(SHUTDOWN, NOWHERE, 1), r"outside of memory"),
    "loads TLS from outside": Bad(BEGIN + hypercall(LOAD_TLS, 0x40FFFF8), r"outside of memory"),
    "has page tables outside": Bad(BEGIN + hypercall(NEW_PGTABLE, NOWHERE), r"outside|0xe0000000|page"),
    "loads a gate beyond the IDT": Bad(BEGIN + hypercall(LOAD_IDT_ENTRY, 256, 0, 0x8E00), r"256"),
    "loads a descriptor beyond the GDT": Bad(BEGIN + hypercall(LOAD_GDT_ENTRY, 32, 0, 0), r"32"),
    "ends with other words than power off": Bad(BEGIN + hypercall(SHUTDOWN, LOAD_AT, 1), r"crashed"),
}


def held() -> tuple[list[str], list[str]]:
    """What this process holds of the kernel: open descriptors, and mappings of KVM's or larger than 1 GiB.

    Smaller ones are the allocator's own business; the memory of a VM is one mapping of 4 GiB.
    """
    descriptors = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    mappings = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        words = line.split(maxsplit=5)
        start, end = (int(address, 16) for address in words[0].split("-"))
        name = words[5] if len(words) > 5 else ""
        if ("kvm" in name and ".so" not in name) or (not name and end - start > 1 << 30):
            mappings.append(f"{end - start:#x} {name}")
    return descriptors, sorted(mappings)


@pytest.fixture(autouse=True)
def everything_is_given_back(tmp_path: Path) -> Iterator[None]:
    """Count before and after, once all modules are imported."""
    run(tmp_path, "warm up", BEGIN + hypercall(SHUTDOWN, TEXT, 1))
    before = held()
    yield
    assert held() == before


#: Where the Switcher has a part in it: the other one must come to the same end.
ALSO_UNDER_SEED = ("jumps into the Switcher", "faults with gates and without a stack", "loops for ever")


@pytest.mark.parametrize(("switcher", "names"), [("hardened", tuple(BAD)), ("seed", ALSO_UNDER_SEED)])
def test_bad_guests(
    switcher: str, names: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = []
    for name in names:
        bad = BAD[name]
        before = held()
        capfd.readouterr()
        code = run(tmp_path, name, bad.code, "--switcher", switcher, *bad.options)
        out, err = capfd.readouterr()
        if code != GUEST_FAILED or out or "Traceback" in err or not re.search(bad.reason, err):
            wrong.append(f"{name}: exit {code}, {err}")
        if held() != before:
            wrong.append(f"{name}: holds {held()}, before {before}")
    assert wrong == [], "\n".join(wrong)


def test_what_led_to_a_death_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    code = BEGIN + hypercall(FLUSH_ASYNC) * 20 + mov("eax", NOWHERE) + TO_EAX
    assert run(tmp_path, "jumper", code) == GUEST_FAILED
    lines = capfd.readouterr().err.splitlines()
    first = lines.index("  The last traps, oldest first:") + 1
    told = [line.strip() for line in lines[first : first + 16]]
    assert len({line.split()[1] for line in told}) == 16  # each from another place
    assert all(line.endswith("ring 1  hypercall FLUSH_ASYNC") for line in told[:15])
    assert re.fullmatch(
        rf"eip {NOWHERE:#010x} ring 1  page fault, error code 0x1?[04], address {NOWHERE:#010x}", told[15]
    )
    assert "last" not in lines[first + 16]


def test_a_good_guest_is_done(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = BEGIN + hypercall(NOTIFY, TEXT) + hypercall(SHUTDOWN, TEXT, 1)
    assert run(tmp_path, "good", code) == DONE
    out, err = capfd.readouterr()
    assert out == "Power down"
    assert "good powered off" in err


def test_json_is_one_object_and_nothing_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    code = BEGIN + hypercall(NOTIFY, TEXT) + hypercall(SHUTDOWN, TEXT, 1)
    assert run(tmp_path, "good", code, "--json") == DONE
    told = json.loads(capfd.readouterr().out)
    (machine,) = told["machines"]
    (guest,) = machine["guests"]
    assert told["exit_code"] == 0
    assert (guest["name"], guest["outcome"], guest["words"]) == ("good", "powered_off", "Power down")
    assert machine["traps"]["hypercall"] == 3
    assert machine["switches"] >= 3
    assert machine["backend"] == "lab"


def test_stats_name_what_they_were_counted_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    assert run(tmp_path, "good", BEGIN + hypercall(SHUTDOWN, TEXT, 1), "--stats") == DONE
    out, err = capfd.readouterr()
    assert out == ""
    assert re.search(r"^hypercall +2 +Python$", err, re.M)
    assert re.search(r"hardened Switcher on lab \(.+, Linux .+\)", err)


def test_the_neighbours_of_a_bad_guest_live_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.elf").write_bytes(image(UD2))
    (tmp_path / "good.elf").write_bytes(image(BEGIN + hypercall(NOTIFY, TEXT) + hypercall(SHUTDOWN, TEXT, 1)))
    capfd.readouterr()
    assert main(["run", "--share", str(tmp_path / "bad.elf"), str(tmp_path / "good.elf")]) == GUEST_FAILED
    out, err = capfd.readouterr()
    assert out == "Power down"
    assert "bad killed" in err
    assert "good powered off" in err


def test_guests_that_do_not_fit_beside_each_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "large.elf").write_bytes(image(SELF))
    large = str(tmp_path / "large.elf")
    assert main(["run", "--share", "--memory", "3G", large, large]) == USAGE
    err = capfd.readouterr().err
    assert "do not fit" in err
    assert "what to do: ask for" in err


def test_interrupted_is_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a Guest spins: the signal is raised by the Guest's own word on the console."""
    import os
    import signal

    from kvmhost.cli import voices

    monkeypatch.setattr(voices.Outlet, "__call__", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert run(tmp_path, "spins", BEGIN + hypercall(NOTIFY, TEXT) + SELF, "--timeout", "20") == INTERRUPTED


def test_a_cpu_that_is_halted_is_switched_off(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """HLT at ring 1 is how a Linux Guest halts without powering off (abi 9.6)."""
    capfd.readouterr()
    assert run(tmp_path, "halted", b"\xf4") == DONE
    assert "halted powered off: halted without power-off" in capfd.readouterr().err
