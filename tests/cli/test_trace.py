"""--trace: a file that is whole, wherever the Guest ran, and clear words where it cannot be written."""

import json
import os
import socket
from pathlib import Path

import pytest

from kvmhost.cli import trace
from kvmhost.cli.entry import main
from kvmhost.cli.failures import USAGE
from kvmhost.launcher.images import SHIPPED


def test_a_trace_outside_of_a_lab_is_whole_json(tmp_path: Path) -> None:
    name = str(tmp_path / "trace.json")
    with trace.traced(name, 0) as traced:
        assert traced is not None
    assert json.loads(Path(name).read_text()) == {"displayTimeUnit": "ns", "traceEvents": []}


def test_nobody_asked_for_a_trace() -> None:
    with trace.traced(None, 0) as traced, trace.served(None) as channels:
        assert traced is None
        assert channels == []


def test_what_a_lab_says_is_written_down(tmp_path: Path) -> None:
    name = tmp_path / "trace.json"
    said = b"x" * (3 << 20)
    with trace.served(str(name)) as (channel,), socket.socket(fileno=os.dup(channel)) as lab:
        lab.sendall(said)
    assert name.read_bytes() == said


def test_a_full_disk_is_told_and_the_lab_does_not_stand_still(capsys: pytest.CaptureFixture[str]) -> None:
    with trace.served("/dev/full") as (channel,), socket.socket(fileno=os.dup(channel)) as lab:
        lab.sendall(b"x" * (3 << 20))
    assert "the trace in /dev/full is not whole: No space left on device" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_a_matter_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "hello", "--backend", "lab", "--trace", "/no/such/folder/trace.json"]) == USAGE
    assert "no trace can be written to /no/such/folder/trace.json" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["guest", "initrd", "disk"])
def test_a_file_that_is_in_use_is_not_emptied_for_a_trace(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / name for name in ("guest", "initrd", "disk")}
    files["guest"].write_bytes((SHIPPED / "hello.elf").read_bytes())
    files["initrd"].write_bytes(b"1")
    files["disk"].write_bytes(bytes(512))
    alias = tmp_path / "trace.json"
    alias.symlink_to(files[what])
    words = ["run", str(files["guest"]), "--initrd", str(files["initrd"]), "--block", str(files["disk"])]
    assert main([*words, "--trace", str(alias), "--backend", "native"]) == USAGE
    assert "would empty" in capsys.readouterr().err
    assert files[what].stat().st_size > 0


@pytest.mark.lab
def test_a_run_leaves_every_trap_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = tmp_path / "trace.json"
    assert main(["run", "hello", "--trace", str(name), "--stats"]) == 0
    events = json.loads(name.read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert {"hypercall LGUEST_INIT", "hypercall SHUTDOWN"} <= {event["name"] for event in spans}
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in spans)
    told = capsys.readouterr().err
    assert "time of hello" in told
    assert "us a trap" in told
