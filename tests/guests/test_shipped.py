"""Every shipped Guest, under both Switchers, on one vCPU and on two: it ends by its own will and is content.

The Guests check themselves and say "Power down" only when all was right; here it is checked that they said
what they were to find out, too.
"""

import pytest
from guests.running import Life, run

from kvmhost import OutcomeKind

pytestmark = pytest.mark.lab

# Shorter than what they do unasked: there are twenty-four of these.
GUESTS = {
    "hello": ("how do you do", "You said: how do you do"),
    "traps": ("", "ways to fault: all caught three times and survived."),
    "syscalls": ("calls=500", "Back at ring 1 after 500 system calls and an exit"),
    "preempt": ("ticks=20", "20 clock interrupts while spinning."),
    "pages": ("touches=40", "40 pages touched through three mappings each."),
    "pair": ("ticks=10", "and always absent."),
}


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("switcher", ["seed", "hardened"])
@pytest.mark.parametrize("name", GUESTS)
def test_runs(name: str, switcher: str, cpus: int) -> None:
    command_line, said = GUESTS[name]
    lives, statistics = run(name, command_line, switcher, cpus)
    assert len(lives) == (2 if name == "pair" else 1)
    for life in lives:
        assert (life.outcome.kind, life.outcome.reason) == (OutcomeKind.POWERED_OFF, "Power down"), life
        assert said in life.words, life.words
    assert statistics.switches > 0


def only(lives: list[Life]) -> Life:
    (life,) = lives
    return life


def test_hello_sees_ring_1_and_an_amd_or_intel() -> None:
    life = only(run("hello")[0])
    assert life.lines[0] == "Hello from ring 1."
    assert any(vendor in life.words for vendor in ("AuthenticAMD", "GenuineIntel"))
    assert "4 MiB of memory" in life.words
    assert "paging on" in life.words


def test_traps_leaves_out_only_what_this_cpu_cannot_do() -> None:
    """An emulated CPU may lack #AC and unmasked SSE faults, and nothing else."""
    life = only(run("traps", switcher="seed")[0])
    vectors = {line.split()[0] for line in life.lines if line.endswith(": ok")}
    absent = {line.split()[0] for line in life.lines if "not demonstrable here, the CPU" in line}
    assert absent <= {"17", "19"}
    assert vectors | absent == {str(v) for v in (0, 1, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 16, 17, 19)}


def test_system_calls_cost_no_switch() -> None:
    """Ten calls or five thousand: the Host sees exactly the same traps."""
    few, many = (run("syscalls", f"calls={calls}") for calls in (10, 5000))
    assert "after 5000 system calls" in only(many[0]).words

    def traps(statistics) -> dict[int, int]:
        # The number printed is longer, so it may take one more piece of console text.
        return {kind: count for kind, count in statistics.traps.items() if kind != 31}

    assert traps(few[1]) == traps(many[1])
    assert 0x80 not in many[1].traps


@pytest.mark.parametrize("command_line", ["touches=100", "touches=100 pae"])
def test_pages_in_both_formats_all_over_a_larger_memory(command_line: str) -> None:
    life = only(run("pages", command_line, memory="64M")[0])
    assert life.outcome.reason == "Power down", life
    assert "Mappings follow SET_PTE, the async ring and FLUSH_TLB" in life.words
    assert ("PAE" in life.words) is ("pae" in command_line)
    last = life.lines[0].split()[-1].rstrip(".")
    assert int(last, 16) > 60 << 20


def test_a_guest_in_the_smallest_memory() -> None:
    for name in ("hello", "traps", "preempt"):
        assert only(run(name, "ticks=3", memory="2M")[0]).outcome.reason == "Power down", name


def test_a_guest_that_is_asked_too_much_says_so() -> None:
    life = only(run("pages", "touches=4000", memory="4M")[0])
    assert life.outcome.kind is OutcomeKind.CRASHED
    assert life.outcome.reason == "FAILED: touches=4000 do not fit into 4194304 bytes of RAM"
