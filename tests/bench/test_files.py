"""Where results go: refused before anything is measured if they cannot be written, and never half written."""

import os
from pathlib import Path

import pytest

from kvmhost.bench import files
from kvmhost.bench.errors import ResultFileError


def test_trying_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    files.try_all([tmp_path / "a.json", tmp_path / "b.html", tmp_path / "old"])
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("old", "old")]


@pytest.mark.parametrize("name", ["none/a.json", ".", "file/a.json", "/proc/a.json", "a" * 300, "a\0b"])
def test_an_unwritable_path_is_told_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultFileError, match="results cannot be written to") as caught:
        files.try_all([tmp_path / name])
    assert caught.value.cause and caught.value.next_step


def test_what_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ResultFileError) as caught:
        files.try_all([tmp_path / "a"])
    assert caught.value.cause == "Permission denied"


def test_one_file_for_two(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(ResultFileError, match="named for two"):
        files.try_all([tmp_path / "a", tmp_path / "link"])


def test_writing_replaces_and_keeps_the_permissions(tmp_path: Path) -> None:
    path, link = tmp_path / "a", tmp_path / "link"
    path.write_text("old")
    path.chmod(0o604)
    link.symlink_to(path)
    files.write(link, "new")
    assert link.is_symlink() and path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o604
    assert sorted(tmp_path.iterdir()) == [path, link]


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write(tmp_path / "a", "new")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_result_belongs_to_who_called_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("SUDO_GID", "65533")
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda path, user, group: given.append((user, group)))
    files.write(tmp_path / "a", "new")
    assert given == [(65534, 65533)] and (tmp_path / "a").read_text() == "new"


def test_what_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(ResultFileError, match="cannot be written"):
        files.write(tmp_path / "a", "\ud800")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a", "old")]


def test_a_pipe_is_written_to() -> None:
    ours, theirs = os.pipe()
    path = Path(f"/dev/fd/{theirs}")
    files.try_all([path])
    files.write(path, "words")
    os.close(theirs)
    with os.fdopen(ours, "rb") as reader:
        assert reader.read() == b"words"
