"""100,000 kicks: none lost, none delivered twice, and the interrupt controller at rest afterwards."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from host import tiny_guest as tiny
from host.stepping import TRAPPING

from kvmhost._native import ffi, lib
from kvmhost.host import Machine

pytestmark = pytest.mark.lab

KICKS = 100_000
ROOT = Path(__file__).parent.parent.parent
# Where a LAPIC page keeps its in-service and request bits
# (Intel SDM vol. 3, "Local APIC Register Address Map").
ISR, IRR, BITMAP = 0x100, 0x200, 0x80

FIELDS = ("cpu", "enter", "post", "take", "wanted", "posted", "taken", "empty", "traps", "failed")


class Storm(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64 if name != "failed" else ctypes.c_int64) for name in FIELDS)


@pytest.fixture(scope="module")
def storm_library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    target = tmp_path_factory.mktemp("storm") / "storm.so"
    compiler = shutil.which("cc")
    assert compiler
    includes = [f"-I{ROOT / 'native' / name}" for name in ("abi", "shim")]
    source = Path(__file__).with_name("storm.c")
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run([compiler, *options, *includes, str(source), "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


def function(name: str) -> int:
    return int(ffi.cast("uintptr_t", ffi.addressof(lib, name)))


SPINNING = tiny.init() + tiny.forever(tiny.increment(0x4000))


@pytest.mark.parametrize("code", [SPINNING, TRAPPING], ids=["spins", "traps"])
def test_kick_storm(storm_library: Any, code: bytes) -> None:
    with Machine(8 << 20) as machine:
        guest = tiny.boot(machine, code)
        calls = []

        @guest.on(lib.HYPERCALL_VECTOR)
        def begun(trap: Any) -> None:
            trap.default()
            calls.append(trap)
            if code is SPINNING or len(calls) == 2:
                machine.clock.after(0.05, machine.stop)

        machine.run(timeout=60)
        cpu = machine.cpus[0]
        cpu.settle()
        in_flight = len(requests(cpu.vcpu.lapic()))
        lib.kvmhost_take(cpu.c)
        kicks_before, acknowledged_before = cpu.c.kicks, cpu.mailbox.kicks + in_flight
        storm = Storm(
            int(ffi.cast("uintptr_t", cpu.c)),
            *(function(f"kvmhost_{name}") for name in ("enter", "post", "take")),
            KICKS,
        )
        cpu.prepare(guest)
        assert storm_library.storm(ctypes.byref(storm)) == 0
        assert storm.failed == 0
        assert storm.posted >= KICKS
        assert (storm.taken, storm.empty) == (storm.posted, 0), "each post is taken once"
        if code is TRAPPING:
            assert storm.traps > 0
        sent = cpu.c.kicks - kicks_before
        assert sent >= KICKS
        cpu.settle()
        page = cpu.vcpu.lapic()
        assert not any(page[ISR : ISR + BITMAP]), "an in-service bit was left set"
        on_its_way = requests(page)
        assert on_its_way in ([], [lib.KICK_VECTOR])
        arrived = cpu.mailbox.kicks - acknowledged_before + len(on_its_way)
        # Only a kick that meets one still on its way is one with it; that takes an exit in between.
        assert sent - storm.traps - cpu.c.stale <= arrived <= sent
        assert cpu.mailbox.unexpected == 0


def requests(page: bytes) -> list[int]:
    """Vectors whose bit is set in the request register: 32 to a dword, a dword every 16 bytes."""
    dwords = [int.from_bytes(page[IRR + at : IRR + at + 4], "little") for at in range(0, BITMAP, 16)]
    return [32 * n + bit for n, dword in enumerate(dwords) for bit in range(32) if dword >> bit & 1]
