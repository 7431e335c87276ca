"""From words to exit codes: what is imported, what is printed where, and which number comes out."""

import errno
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvmhost.cli import entry, failures, main
from kvmhost.cli.failures import CODES, UsageError, exit_code, report
from kvmhost.cli.results import tell
from kvmhost.host.errors import GuestBroke, KvmhostError
from kvmhost.host.outcome import Outcome, OutcomeKind

#: -P, or the tests would meet the checkout they lie in, which has no compiled part.
KVMHOST = [sys.executable, "-P", "-m", "kvmhost"]
#: What costs more to import than the whole command line may take.
HEAVY = {
    "_cffi_backend", "asyncio", "capstone", "cffi", "concurrent", "ctypes", "dataclasses", "email",
    "elftools", "importlib.metadata", "inspect", "kvmhost._native", "logging", "multiprocessing", "psutil",
    "pydoc", "threading", "unittest",
}  # fmt: skip
BARE = "import json, sys; print(json.dumps(sorted(sys.modules)))"
LOADED = """
import json, sys
from kvmhost.cli import main
code = main(json.loads(sys.argv[1]))
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


def modules_after(*words: str) -> tuple[int, set[str]]:
    """The exit code of a command, and which modules it imported that a bare Python does not."""
    bare = subprocess.run([sys.executable, "-P", "-c", BARE], capture_output=True, text=True, check=True)
    child = subprocess.run(
        [sys.executable, "-P", "-c", LOADED, json.dumps(words)], capture_output=True, text=True, check=True
    )
    code, loaded = json.loads(child.stderr.splitlines()[-1])
    return code, set(loaded) - set(json.loads(bare.stdout))


@pytest.mark.parametrize(
    ("words", "code"), [(["--help"], 0), (["run", "--help"], 0), (["run"], 2), (["doctor", "--bad"], 2)]
)
def test_words_alone_import_nothing_heavy(words: list[str], code: int) -> None:
    ended, loaded = modules_after(*words)
    assert ended == code
    assert "argparse" in loaded
    assert loaded & HEAVY == set()


def test_the_measurement_of_imports_would_notice() -> None:
    _, loaded = modules_after("run", "--memory", "0", "hello")
    assert "_cffi_backend" in loaded & HEAVY


BROKEN = """
import sys
sys.modules["kvmhost._native"] = None
from kvmhost.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("words", "codes"),
    [(["doctor"], (0, 3)), (["lab", "check"], (0, 3)), (["journey", "S70"], (0,)), (["run", "hello"], (4,))],
)
def test_what_works_without_the_compiled_part(words: list[str], codes: tuple[int, ...]) -> None:
    child = subprocess.run(
        [sys.executable, "-P", "-c", BROKEN, *words], capture_output=True, text=True, check=False
    )
    assert child.returncode in codes, child.stderr
    assert "Traceback" not in child.stderr
    assert bool(child.stdout) == (child.returncode != failures.OUR_FAULT)
    assert ("install kvmhost again" in child.stderr) == (child.returncode == failures.OUR_FAULT)


def test_closed_streams_are_no_trouble() -> None:
    line = " ".join([*KVMHOST, "journey", "--list", "<&-", ">&-", "2>&-"])
    assert subprocess.run(["sh", "-c", line], check=False).returncode == failures.DONE


def test_the_shipped_guests_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--list"]) == failures.DONE
    out = capsys.readouterr().out
    names = [line.split()[0] for line in out.splitlines() if not line.startswith(" ")]
    assert {"hello", "traps", "syscalls", "preempt", "pages", "pair", "generation-*"} <= set(names)
    assert len(names) == len(set(names)) < 12
    assert "generation-2.6.24, generation-2.6.25, " in out
    assert "early console" in out
    assert "[G" not in out


def test_a_guests_last_words_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    tell("evil", Outcome(OutcomeKind.CRASHED, "a\x1b[2J\nkvmhost: all is well", "b\x07\nc"))
    assert capsys.readouterr().err == (
        "kvmhost: evil crashed: a\\x1b[2J\\nkvmhost: all is well\n  b\\x07\n  c\n"
    )


def test_help_names_every_command_and_exit_code() -> None:
    started = time.monotonic()
    child = subprocess.run([*KVMHOST, "--help"], capture_output=True, text=True, check=False)
    print(f"kvmhost --help took {time.monotonic() - started:.3f} s")
    assert (child.returncode, child.stderr) == (0, "")
    for word in ("run", "doctor", "lab", "journey", "--version", *map(str, (0, 1, 2, 3, 4, 130, 141, 143))):
        assert f" {word} " in child.stdout, word


def test_the_console_script_is_there() -> None:
    script = Path(sys.executable).parent / "kvmhost"
    child = subprocess.run([script, "journey", "--list"], capture_output=True, text=True, check=False)
    assert child.returncode == 0
    assert child.stdout.startswith("H10 ")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["run"],
        ["run", "hello", "--cpus", "0"],
        ["run", "hello", "--cpus", "17"],
        ["run", "hello", "--cpus", "two"],
        ["run", "hello", "--switcher", "/no/such/file"],
        ["run", "hello", "--switcher", "/etc/passwd"],
        ["run", "hello", "--timeout", "0"],
        ["run", "hello", "--timeout", "-1"],
        ["run", "hello", "--timeout", "nan"],
        ["run", "hello", "--backend", "xen"],
        ["run", "hello", "--descriptors", "7"],
        ["run", "hello", "--frame", "2.6.23"],
        ["run", "hello", "--shell", "--json"],
        ["run", "hello", "--memory", "much"],
        ["run", "no-such-guest"],
        ["run", "/"],
        ["run", "hello", "--initrd", "/no/such/file"],
        ["lab"],
        ["lab", "run"],
        ["lab", "run", "--"],
        ["lab", "run", "--user", "nobody-of-that-name", "--", "true"],
        ["lab", "prepare", "--user", "nobody-of-that-name"],
        ["run", "hello", "--user", "nobody-of-that-name"],
    ],
)
def test_wrong_words_end_with_2_and_a_reason(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(words) == failures.USAGE
    out, err = capfd.readouterr()
    assert out == ""
    assert err.strip()
    assert "Traceback" not in err


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command that raises this."""

    def raising(argv: object) -> int:
        raise error

    monkeypatch.setattr(entry, "obey", raising)
    return main([])


def test_an_error_of_ours_says_what_why_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    code = report(KvmhostError("the lamp is out", cause="no oil", next_step="buy oil"))
    out, err = capsys.readouterr()
    assert code == failures.HOST_CANNOT
    assert out == ""
    assert err == "kvmhost: the lamp is out\n  why: no oil\n  what to do: buy oil\n"


def test_a_full_disk_is_not_our_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert fail_with(full, monkeypatch) == failures.HOST_CANNOT
    err = capsys.readouterr().err
    assert err.startswith("kvmhost: cannot write: No space left on device\n  what to do: ")
    assert "report" not in err


def test_the_unexpected_is_our_fault_and_says_how_to_report_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KVMHOST_DEBUG", raising=False)
    assert fail_with(ZeroDivisionError("by zero"), monkeypatch) == failures.OUR_FAULT
    err = capsys.readouterr().err
    assert "ZeroDivisionError: by zero" in err
    assert "report" in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KVMHOST_DEBUG", "1")
    assert fail_with(ZeroDivisionError("by zero"), monkeypatch) == failures.OUR_FAULT
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fail_with(KeyboardInterrupt(), monkeypatch) == failures.INTERRUPTED == 130


def test_a_reader_that_goes_away_is_141_without_a_word() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    child = subprocess.run(
        [*KVMHOST, "journey"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (child.returncode, child.stderr) == (failures.BROKEN_PIPE, "")


def test_exit_codes_follow_the_kind_of_error() -> None:
    assert exit_code(GuestBroke("it jumped")) == failures.GUEST_FAILED
    assert exit_code(UsageError("no")) == failures.USAGE
    assert exit_code(KvmhostError("no")) == failures.HOST_CANNOT


def test_every_error_named_in_the_table_of_codes_exists() -> None:
    """The table goes by names; a class that is renamed must not fall out of it silently."""
    names = ("bench", "host", "launcher", "switcher")
    places = ["cli.backend", "cli.failures", *(f"{name}.errors" for name in names)]
    rooms = [importlib.import_module(f"kvmhost.{name}") for name in places]
    assert [name for name in CODES if not any(hasattr(room, name) for room in rooms)] == []
