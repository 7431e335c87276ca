"""What `kvmhost run` says about a kernel before it boots, and after it panicked."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from launcher.kernels import EBX_INT, text, vmlinux

from kvmhost.cli import boot, main, results
from kvmhost.cli.failures import GUEST_FAILED, USAGE
from kvmhost.host.outcome import Outcome, OutcomeKind
from kvmhost.launcher.hints import LAST_WORDS

PANIC = "VFS: Unable to mount root fs on unknown-block(0,0)"


def ended(kind: OutcomeKind, *words: bytes, reason: str = PANIC) -> boot.Life:
    life = boot.Life("vmlinux", outcome=Outcome(kind, reason))
    for piece in words:
        life.remember(piece)
    return life


def test_a_panic_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    life = ended(OutcomeKind.CRASHED, b"compression method ", b"xz not configured\r\n")
    boot.tell(cast(Any, SimpleNamespace(lives=[life])))
    said = capsys.readouterr().err
    assert "vmlinux crashed: VFS: Unable to mount root" in said
    assert "what to do: this kernel cannot unpack an initrd packed with xz" in said


def test_other_ends_are_not() -> None:
    for kind in OutcomeKind:
        if kind is not OutcomeKind.CRASHED:
            assert ended(kind, b"No init found").advice() == ()


def test_only_the_last_words_are_kept() -> None:
    life = ended(OutcomeKind.CRASHED, b"No init found\n", *[b"." * 100] * 500, reason="Fatal exception")
    assert LAST_WORDS <= len(life.last_words) <= 2 * LAST_WORDS
    assert life.advice() == ()


def test_advice_is_in_the_json() -> None:
    statistics = SimpleNamespace(
        backend="", cpu="", kernel="", switches=0, runs=0, interrupts=0, traps={}, handled={}, times={},
        guest_changes=0, moves=0, kicks=0, signals=0, nmis=0,
    )  # fmt: skip
    run = SimpleNamespace(lives=[ended(OutcomeKind.CRASHED)], statistics=statistics)
    (guest,) = json.loads(json.dumps(results.machine_as_dict(cast(Any, run))))["guests"]
    assert "--initrd" in guest["advice"][0]


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
    image = tmp_path / "vmlinux"
    image.write_bytes(data)
    assert main(["run", str(image), *words]) == code
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
    image = tmp_path / "vmlinux"
    image.write_bytes(vmlinux(text("3.2", EBX_INT)))
    main(["run", str(image), *words])
    err = capsys.readouterr().err
    assert said in err
    assert "judged" in err
