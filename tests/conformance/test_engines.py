"""tcg and bochs for real: one handful of cases, and every way to go wrong."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conformance.hand_made import case, handful, play, stop

from kvmhost.conformance import verdict
from kvmhost.conformance.case import Case, Expect, Observation, Watch
from kvmhost.conformance.errors import MachineryBroke, RunnerAbsent
from kvmhost.conformance.results import Status
from kvmhost.conformance.runners import make
from kvmhost.conformance.runners.base import Runner
from kvmhost.conformance.runners.bochs import BochsEnded, BochsRunner, Conversation
from kvmhost.conformance.runners.process import Engine, Patience
from kvmhost.conformance.runners.tcg import TcgRunner
from kvmhost.conformance.scene import Scene
from kvmhost.conformance.stage import ADDRESS, PAGES, Stage
from kvmhost.conformance.switcher_image import from_facts

Make = Callable[..., TcgRunner | BochsRunner]
MAKERS: dict[str, Make] = {"tcg": TcgRunner, "bochs": BochsRunner}


@pytest.fixture(scope="module", params=MAKERS)
def runner(request: pytest.FixtureRequest) -> Iterator[TcgRunner | BochsRunner]:
    # A second of CPU time is a thousand times what a case takes.
    with MAKERS[request.param](patience=Patience(cpu=1.0)) as ready:
        yield ready


def engines() -> set[str]:
    """Emulators that are children of this process."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            found.add(Path(f"/proc/{child}/comm").read_text().strip())
    return {name for name in found if name.startswith(("qemu", "bochs"))}


def files() -> list[str]:
    """Memory files of engines that are still open."""
    links = []
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            links.append(str(fd.readlink()))
    return [link for link in links if "kvmhost-conform" in link]


def test_the_handful_passes_on_every_engine(runner: Runner) -> None:
    cases = handful()
    seen = play(runner, cases)
    verdicts = {one.name: verdict.compare(one, seen[one.name], runner.environment) for one in cases}
    assert {name: it.differences for name, it in verdicts.items() if it.status is not Status.PASS} == {}
    assert not engines() and not files()


def test_what_the_engine_is_was_asked_of_it(runner: Runner) -> None:
    facts = dict(runner.environment.facts)
    limits = {"tcg": "no", "bochs": "yes"}[runner.name]
    assert facts["segment limits enforced"] == limits
    assert facts["RF in a fault's pushed EFLAGS"] == {"tcg": "0", "bochs": "1"}[runner.name]
    assert runner.environment.engine.split()[0] == {"tcg": "QEMU", "bochs": "Bochs"}[runner.name]
    needs = frozenset({"pae", "hw-limits"})
    wanted = Case("R", "c", "L1", "P", None, None, requires=needs, program="kvm-001")
    assert runner.unmet(wanted) == {"tcg": "hw-limits", "bochs": "kvm"}[runner.name]


def test_a_wrong_expectation_is_seen(runner: Runner) -> None:
    wrong = case("hlt", "f4", expect=Expect(trap=handful()[2].expect.trap))
    result = verdict.compare(wrong, play(runner, [wrong])["hlt"], runner.environment)
    assert result.status is Status.FAIL
    assert [(each.what, each.expected, each.found) for each in result.differences] == [
        ("error", "0x6a", "0x0")
    ]


def test_a_changed_page_is_seen(runner: Runner) -> None:
    """mov [X3 + 8], eax: nobody said that this page may change."""
    code = "a3" + (ADDRESS["X3"] + 8).to_bytes(4, "little").hex() + "cd2f"
    quiet = case("quiet", code, expect=Expect(changed=frozenset({PAGES.index("X4")})))
    observation = play(runner, [quiet])["quiet"]
    assert observation.changed is not None and PAGES.index("X3") in observation.changed
    (difference,) = verdict.compare(quiet, observation, runner.environment).differences
    assert (difference.expected, difference.found) == ("at most X4", "X3")


def test_a_triple_fault_is_seen_and_the_next_case_is_not_hurt(runner: Runner) -> None:
    """The case writes before it dies: what it wrote is still told, and gone for the one after it."""
    code = "c705" + ADDRESS["G_DATA"].to_bytes(4, "little").hex() + "78563412" + "0f0b"
    watch = Watch(ADDRESS["G_DATA"], 4)
    before = runner.starts
    seen = play(
        runner,
        [
            case(
                "dies",
                code,
                "ring0",
                idt_limit=0,
                watches=[watch],
                dr=((0, 5), (7, 0x400)),
                msrs=((0x174, 7),),
            ),
            case("after", "cd2f", watches=[watch]),
        ],
    )
    assert runner.starts == before + 1
    assert seen["dies"].outcome == "shutdown" and seen["dies"].trap is None
    assert seen["dies"].memory[watch.address, 4].hex() == "78563412"
    assert PAGES.index("G_DATA") in (seen["dies"].changed or ())
    assert seen["after"].outcome == "trap" and seen["after"].memory[watch.address, 4] == bytes(4)
    assert seen["after"].dr["dr0"] == 0


def test_a_hang_is_ended_and_the_others_are_played(runner: Runner) -> None:
    spin = case("hangs", "ebfe", "ring0")
    seen = play(runner, [stop("before"), spin, stop("after")])
    assert [seen[name].outcome for name in ("before", "hangs", "after")] == ["trap", "timeout", "trap"]
    result = verdict.compare(spin, seen["hangs"], runner.environment)
    assert [(each.expected, each.found) for each in result.differences] == [("trap", "timeout")]
    assert not engines()


def test_a_sleep_that_nothing_ends_is_asked_for() -> None:
    """HLT with interrupts masked burns no time: were it waited for by the clock, an hour would not do."""
    with TcgRunner(patience=Patience(cpu=1.0, clock=3600)) as runner:
        seen = play(runner, [stop("before"), case("sleeps", "f4", "ring0"), stop("after")])
        assert [seen[name].outcome for name in ("before", "sleeps", "after")] == ["trap", "timeout", "trap"]
    assert not engines() and not files()


def test_a_switcher_that_reports_is_heard(runner: Runner) -> None:
    """out 0xe2, al; jmp $: as the product's hardened Switcher ends, entered by the Host's lcall."""
    facts = {
        "frame": "2.6.24",
        "descriptors": 6,
        "symbols": {"switch_to_guest": 0, "fault_in_switcher": 1},
        "default_idt_entries": [0] * 256,
    }
    stage = Stage.of("pair", "legacy", from_facts("reports", b"\x90\xe6\xe2\xeb\xfc", facts, "made"))
    one = Case("R", "reports", "L3", "P", stage.template, stage.cpu("trip"), Scene(stage).patches())
    seen = play(runner, [stop("before"), one, stop("after")])
    assert [seen[name].outcome for name in ("before", "reports", "after")] == ["trap", "report", "trap"]


def test_another_switcher_may_have_anything_where_one_reports(runner: Runner) -> None:
    """Bochs sees a report by a breakpoint, and that has an address and nothing else."""
    facts = {"frame": "2.6.24", "descriptors": 6, "default_idt_entries": [0] * 256}
    texts = {"reports": b"\x90\xe6\xe2\xeb\xfc", "stops": b"\x90\x90\x90\xcd\x2f"}
    cases = []
    for name, text in texts.items():
        symbols = {"switch_to_guest": 0} | ({"fault_in_switcher": 1} if name == "reports" else {})
        image = from_facts(name, text, {**facts, "symbols": symbols}, "made")
        stage = Stage.of("pair", "legacy", image)
        cases.append(Case("R", name, "L3", "P", stage.template, stage.cpu("trip"), Scene(stage).patches()))
    seen = play(runner, cases)
    assert {name: it.outcome for name, it in seen.items()} == {"reports": "report", "stops": "trap"}


def test_a_machine_that_cannot_be_had_is_no_failure_of_the_cpu(runner: Runner) -> None:
    seen = play(
        runner,
        [
            case("tr is code", "cd2f", tr=0x60),
            case("ds is not there", "cd2f", ds=0xB0),
            case("ldtr is code", "cd2f", ldtr=0x60),
            stop("after"),
        ],
    )
    names = ("tr is code", "ds is not there", "ldtr is code", "after")
    assert [seen[name].outcome for name in names] == ["setup", "setup", "setup", "trap"]
    assert seen["tr is code"].detail == "vector 13, error 0x60, at load_tables+0x10 of the monitor"
    assert "while segments were loaded" in seen["ds is not there"].detail


def test_every_case_of_two_formats_starts_from_its_own_template(runner: Runner) -> None:
    names = [f"{paging} {number}" for number in range(3) for paging in ("legacy", "pae")]
    seen = play(
        runner,
        [case(name, "cd2f", paging="pae" if name.startswith("pae") else "legacy") for name in names],
    )
    assert {name: seen[name].cr["cr4"] & 0x20 for name in names} == {
        name: 0x20 if name.startswith("pae") else 0 for name in names
    }


@pytest.mark.parametrize("name", MAKERS)
def test_a_runner_that_is_not_installed_says_what_to_install(name: str) -> None:
    with pytest.raises(RunnerAbsent) as caught, MAKERS[name]("no-such-emulator"):
        pass
    assert "no-such-emulator is not installed" in caught.value.message
    assert "apt-get install" in caught.value.next_step


@pytest.mark.parametrize("name", MAKERS)
def test_an_engine_that_dies_at_once_is_our_trouble(name: str, tmp_path: Path) -> None:
    broken = tmp_path / "emulator"
    broken.write_text("#!/bin/sh\necho this emulator is broken\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(MachineryBroke) as caught, MAKERS[name](str(broken)):
        pass
    assert "before it played a case" in caught.value.message
    assert caught.value.cause == "this emulator is broken"
    assert not engines() and not files()


# What no engine survives.  QEMU: LTR with a null selector is accepted, and the next change of rings aborts.
# Bochs: "Shutdown", letter by letter to port 0x8900.
DEADLY = {
    "tcg": "31c0 0f00d8 68a9000000 6800904100 6802000000 68a1000000 6800604100 cf",
    "bochs": "66ba0089" + "".join(f"b0{letter:02x}ee" for letter in b"Shutdown"),
}


def test_an_engine_that_dies_in_the_middle_costs_one_case(runner: Runner) -> None:
    deadly = case("deadly", DEADLY[runner.name], "ring0", memory={ADDRESS["G_CODE"]: b"\xcd\x2f"})
    names = [f"stop {number}" for number in range(4)]
    cases = [stop(names[0]), stop(names[1]), deadly, stop(names[2]), stop(names[3])]
    seen = play(runner, cases)
    assert [seen[name].outcome for name in names] == ["trap"] * 4
    assert seen["deadly"].outcome == "broken"
    said = {"tcg": "fatal: invalid tss", "bochs": "shutdown requested"}[runner.name]
    assert said in seen["deadly"].detail
    assert verdict.compare(deadly, seen["deadly"], runner.environment).status is Status.FAIL


@pytest.mark.parametrize("name", MAKERS)
def test_an_interrupt_leaves_nothing_running(name: str) -> None:
    """Ctrl-C in a process of its own, as soon as it has said that a result came."""
    program = (
        "import sys; from conformance.hand_made import case, stop\n"
        "from kvmhost.conformance.runners import make\n"
        f"with make({name!r}) as runner:\n"
        "    runner.run([stop(str(n)) for n in range(2001)] + [case('spins', 'ebfe', 'ring0')],\n"
        "               lambda one, seen: print(one.name, flush=True))\n"
    )
    tests = str(Path(__file__).parent.parent)
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": tests},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "0\n"
    below = set(Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split())
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in error
    assert [pid for pid in below if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.parametrize("name", MAKERS)
def test_neither_a_terminal_nor_its_name_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TERM", raising=False)
    with MAKERS[name]() as runner:
        assert play(runner, [stop()])["stop"].outcome == "trap"


def test_runners_are_made_by_name() -> None:
    assert make("tcg").name == "tcg" and make("bochs").name == "bochs"


def test_a_start_that_the_monitor_cannot_make_is_refused(runner: Runner) -> None:
    def heard(_case: Case, _observation: Observation) -> None:
        raise AssertionError("nothing may be played")

    with pytest.raises(MachineryBroke, match="a start at ring 0 has no TF"):
        runner.run([case("steps", "cd2f", "ring0", eflags=0x102)], heard)
    with pytest.raises(MachineryBroke, match="4 bytes at 0x800000 are not in the arena"):
        runner.run([case("looks", "cd2f", watches=[Watch(0x800000, 4)])], heard)


def test_a_bochs_that_does_not_stop_when_told_is_given_up() -> None:
    reading, writing = os.pipe()
    words = ["sh", "-c", "trap '' INT; while :; do :; done"]
    with Engine(words, console=writing, talk=True) as engine:
        os.close(writing)
        with pytest.raises(BochsEnded):
            Conversation(engine, reading, Patience(cpu=0.2)).ask("c")
    os.close(reading)
