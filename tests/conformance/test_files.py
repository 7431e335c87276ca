"""Where reports go: refused before the run if they cannot be written, and never half written."""

import os
from pathlib import Path

import pytest

from kvmhost.conformance.errors import ReportError
from kvmhost.conformance.report import files


def test_trying_leaves_nothing_behind(tmp_path: Path) -> None:
    files.try_all([tmp_path / "a.json", tmp_path / "b.html"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["none/a.json", ".", "file/a.json", "/proc/a.json", "a" * 300])
def test_an_unwritable_path_is_told_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="cannot write the report") as caught:
        files.try_all([tmp_path / name])
    assert caught.value.cause and caught.value.next_step


def test_an_earlier_report_survives_being_tried(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    files.try_all([path])
    assert path.read_text() == "old"


def test_one_file_for_two_reports(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(ReportError, match="named for two"):
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


def test_a_report_belongs_to_who_called_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("SUDO_GID", "65533")
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda path, user, group: given.append((user, group)))
    files.write(tmp_path / "a", "new")
    assert given == [(65534, 65533)] and (tmp_path / "a").read_text() == "new"


def test_what_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        files.write(tmp_path / "a", "\ud800")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a", "old")]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    path = Path(f"/dev/fd/{theirs}")
    files.try_all([path])
    files.write(path, "words")
    os.close(theirs)
    with os.fdopen(ours, "rb") as reader:
        assert reader.read() == b"words"
