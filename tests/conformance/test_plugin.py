"""The rows as tests in somebody else's CI: what pytest makes of them, from outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE = 300


def rows_as_tests(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "--pyargs",
        "kvmhost.conformance",
        "-p",
        "no:cacheprovider",
        "-rA",
    ]
    return subprocess.run(
        [*line, *words], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_rows_are_tests_with_ids(tmp_path: Path) -> None:
    ended = rows_as_tests(
        tmp_path, "--conform-runner", "tcg", "--conform-rows", "SW-ENT-001,DBG-014", "-k", "tcg"
    )
    assert ended.returncode == 0, ended.stdout
    assert "PASSED" in ended.stdout and "test_row[tcg-SW-ENT-001]" in ended.stdout
    assert "not written: " in ended.stdout and "1 passed, 1 skipped" in ended.stdout
    assert "tcg: TCG: QEMU emulator version" in ended.stdout


def test_the_core_set_is_collected_for_each_runner(tmp_path: Path) -> None:
    ended = rows_as_tests(tmp_path, "--conform-runner", "tcg,model", "--collect-only", "-qq")
    assert ended.returncode == 0
    from kvmhost.conformance.selection import select

    assert ended.stdout.strip().endswith(f"test_rows.py: {2 * len(select([]))}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--conform-runner", "unicorn"], "--conform-runner: no unicorn; choose from kvm, tcg, bochs, model"),
        (["--conform-rows", "SW-NOPE"], "--conform-rows: no row and no group is called SW-NOPE"),
        (["--conform-scope", "most"], "invalid choice: 'most'"),
    ],
)
def test_wrong_words_are_told(tmp_path: Path, words: list[str], said: str) -> None:
    ended = rows_as_tests(tmp_path, *words)
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR and said in ended.stdout + ended.stderr
