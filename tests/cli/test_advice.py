"""What `kvmhost run` says about a kernel before it boots, and after it panicked."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from launcher.elf_files import Elf
from launcher.kernels import EBX_INT, BzImage, text, vmlinux

from kvmhost.cli import boot, main, results
from kvmhost.cli.advice import LastWords, advise
from kvmhost.cli.failures import GUEST_FAILED, USAGE
from kvmhost.host.outcome import Outcome, OutcomeKind
from kvmhost.launcher.hints import LAST_WORDS
from kvmhost.launcher.images import OpenImage, open_image

PANIC = "VFS: Unable to mount root fs on unknown-block(0,0)"


def image(tmp_path: Path, data: bytes) -> OpenImage:
    path = tmp_path / "vmlinux"
    path.write_bytes(data)
    return open_image(path)


def advice(
    kind: OutcomeKind, opened: OpenImage, *words: bytes, reason: str = PANIC, memory: str = "17M"
) -> str:
    heard = LastWords()
    for piece in words:
        heard(piece)
    with opened:
        return advise(Outcome(kind, reason), bytes(heard), opened, memory, None) or ""


def test_a_panic_is_explained(tmp_path: Path) -> None:
    words = b"compression method ", b"xz not configured\r\n"
    said = advice(OutcomeKind.CRASHED, image(tmp_path, b""), *words)
    assert said.startswith("this kernel cannot unpack an initrd packed with xz")


def test_a_silent_death_with_little_memory_is_guessed_at(tmp_path: Path) -> None:
    kernel = vmlinux(text())
    assert "try --memory" in advice(OutcomeKind.KILLED, image(tmp_path, kernel))
    assert advice(OutcomeKind.KILLED, image(tmp_path, kernel), memory="64M") == ""
    assert advice(OutcomeKind.KILLED, image(tmp_path, kernel), b"Linux version") == ""
    assert advice(OutcomeKind.KILLED, image(tmp_path, Elf().bytes())) == ""
    assert advice(OutcomeKind.KILLED, image(tmp_path, b"overwritten meanwhile")) == ""


def test_a_riddle_of_a_panic_with_little_memory_is_guessed_at(tmp_path: Path) -> None:
    kernel, riddle = vmlinux(text()), "Attempted to kill the idle task!"
    for words in (b"", b"[    0.000000] Linux version\r\n"):
        said = advice(OutcomeKind.CRASHED, image(tmp_path, kernel), words, reason=riddle)
        assert "too little memory" in said
        assert advice(OutcomeKind.CRASHED, image(tmp_path, kernel), words, reason=riddle, memory="64M") == ""
    assert advice(OutcomeKind.CRASHED, image(tmp_path, b"overwritten meanwhile"), reason=riddle) == ""
    assert "--initrd" in advice(OutcomeKind.CRASHED, image(tmp_path, kernel))


def test_a_silent_death_of_what_may_be_no_guest(tmp_path: Path) -> None:
    native = vmlinux(text("3.2", b""))
    opaque = BzImage(b"\x89LZO\0" + bytes(100)).bytes()
    for data in (native, opaque):
        said = advice(OutcomeKind.KILLED, image(tmp_path, data), memory="64M")
        assert "CONFIG_LGUEST_GUEST" in said


def test_other_ends_need_no_advice(tmp_path: Path) -> None:
    for kind in OutcomeKind:
        if kind not in (OutcomeKind.CRASHED, OutcomeKind.KILLED):
            assert advice(kind, image(tmp_path, vmlinux(text())), b"No init found") == ""


def test_only_the_last_words_are_kept(tmp_path: Path) -> None:
    heard = LastWords()
    for piece in (b"No init found\n", *[b"." * 100] * 500):
        heard(piece)
    assert LAST_WORDS <= len(bytes(heard)) <= 2 * LAST_WORDS
    assert b"init" not in bytes(heard)


def test_advice_is_printed_and_in_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    life = boot.Life(
        "vmlinux", "vmlinux", outcome=Outcome(OutcomeKind.CRASHED, PANIC), advice="do \x1b[2J this"
    )
    boot.tell(cast(Any, SimpleNamespace(lives=[life])))
    assert "  what to do: do \\x1b[2J this\n" in capsys.readouterr().err
    statistics = SimpleNamespace(
        backend="", cpu="", kernel="", switches=0, runs=0, interrupts=0, traps={}, handled={}, times={},
        guest_changes=0, moves=0, kicks=0, signals=0, nmis=0,
    )  # fmt: skip
    run = SimpleNamespace(lives=[life], statistics=statistics)
    (guest,) = json.loads(json.dumps(results.machine_as_dict(cast(Any, run))))["guests"]
    assert guest["advice"] == life.advice


@pytest.fixture
def no_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything up to the place where a Guest would run."""

    def stop(*_: object) -> bool:
        raise AssertionError("judged")

    monkeypatch.setattr("kvmhost.cli.backend.goes_to_lab", stop)


@pytest.mark.parametrize(
    ("data", "words", "code", "said"),
    [
        (vmlinux(text("3.2", b"")), [], GUEST_FAILED, "CONFIG_LGUEST_GUEST=y"),
        (vmlinux(text("4.19")), [], GUEST_FAILED, "too new"),
        (vmlinux(text()), ["--memory", "8M"], GUEST_FAILED, "at least 17M"),
        (vmlinux(text()), ["--append", "mem=32M"], GUEST_FAILED, "--memory"),
        (vmlinux(text()), ["--abi", "4.14"], USAGE, "name one of 2.6.24"),
        (vmlinux(text(), size=128 << 20), [], GUEST_FAILED, "at least 144M"),
    ],
)
def test_refused_before_anything_runs(
    data: bytes, words: list[str], code: int, said: str,
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_lab: None,
) -> None:  # fmt: skip
    path = tmp_path / "vmlinux"
    path.write_bytes(data)
    assert main(["run", str(path), *words]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "neither --initrd nor root="),
        (["--initrd", "/bin/sh"], "the initrd is an ELF file"),
        (["--append", "root=/dev/vda console=ttyS0"], "console=hvc0"),
        (["--abi", "4.1", "--append", "root=/dev/hda mem=32M"], "root=/dev/hda names none"),
    ],
)
def test_remarked_on_and_run_all_the_same(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_lab: None
) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(text("3.2", EBX_INT)))
    main(["run", str(path), *words])
    err = capsys.readouterr().err
    assert said in err
    assert "judged" in err
