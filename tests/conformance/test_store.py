"""What is kept for the next run: whole and ours, or as if it were not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvmhost.conformance import store

NAME = "a" * 64


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "kvmhost" / "conform"


def test_what_was_written_is_read_and_nobody_else_may(folder: Path) -> None:
    assert store.read(NAME) is None
    store.write(NAME, b"content" * 1000)
    assert store.read(NAME) == b"content" * 1000
    assert (folder.stat().st_mode & 0o777, (folder / NAME).stat().st_mode & 0o777) == (0o700, 0o600)
    assert [path.name for path in folder.iterdir()] == [NAME]
    store.write(NAME, b"newer")
    assert store.read(NAME) == b"newer"


def test_a_change_of_any_byte_is_noticed(folder: Path) -> None:
    store.write(NAME, b"some content")
    whole = (folder / NAME).read_bytes()
    for place in range(len(whole)):
        (folder / NAME).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert store.read(NAME) is None, place
        (folder / NAME).write_bytes(whole[:place])
        assert store.read(NAME) is None, place
    (folder / NAME).write_bytes(whole)
    assert store.read(NAME) == b"some content"


def test_a_file_under_another_name_is_none_of_ours(folder: Path) -> None:
    store.write(NAME, b"content")
    (folder / NAME).rename(folder / ("b" * 64))
    assert store.read("b" * 64) is None


def test_what_others_could_have_written_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(NAME, b"content")
    (folder / NAME).chmod(0o620)
    assert store.read(NAME) is None
    (folder / NAME).chmod(0o600)
    for place in (folder, folder.parent, folder.parent.parent):
        place.chmod(0o703)
        assert store.read(NAME) is None, place
        place.chmod(0o700)
    assert store.read(NAME) == b"content"
    somebody = os.geteuid() + 1
    monkeypatch.setattr("os.geteuid", lambda: somebody)
    assert store.read(NAME) is None
    store.write("c" * 64, b"content")
    assert [path.name for path in folder.iterdir()] == [NAME]


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    store.write(NAME, b"content")
    (folder / NAME).rename(tmp_path / "elsewhere")
    (folder / NAME).symlink_to(tmp_path / "elsewhere")
    assert store.read(NAME) is None


def test_a_folder_that_cannot_be_had_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    store.write(NAME, b"content")
    assert store.read(NAME) is None


def test_a_write_that_fails_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    store.write(NAME, b"before")
    monkeypatch.setattr(Path, "rename", full)
    store.write(NAME, b"after")
    assert store.read(NAME) == b"before"
    assert [path.name for path in folder.iterdir()] == [NAME]


def test_only_the_newest_are_kept(folder: Path) -> None:
    for number in range(store.KEPT + 3):
        store.write(f"{number:064}", b"content")
        os.utime(folder / f"{number:064}", (number, number))
    store.write(NAME, b"newest")
    kept = sorted(path.name for path in folder.iterdir())
    assert len(kept) == store.KEPT and kept[-1] == NAME and kept[0] == f"{4:064}"


def test_another_installation_has_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "kvmhost" / "conformance"
    home.mkdir(parents=True)
    (home / "rule.py").write_text("one")
    monkeypatch.setattr(store, "_HOME", home)
    names = []
    for change in (lambda: None, lambda: (home / "rule.py").write_text("two")):
        change()
        store.installed.cache_clear()
        names.append((store.key("x", "y"), store.key("x", "z")))
    monkeypatch.setattr(store, "version", lambda package: f"{package} 1.2.3")
    store.installed.cache_clear()
    names.append((store.key("x", "y"), store.key("x", "z")))
    store.installed.cache_clear()
    assert len({name for each in names for name in each}) == 6
