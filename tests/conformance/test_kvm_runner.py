"""The kvm runner when its worker does not work; when it does, the catalogue itself is its test (ci/test)."""

from __future__ import annotations

import select
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conformance.hand_made import case

from kvmhost.conformance.case import Case, Event, Observation
from kvmhost.conformance.errors import MachineryBroke, RunnerAbsent
from kvmhost.conformance.expand import expand
from kvmhost.conformance.families import spec
from kvmhost.conformance.row import Code, find
from kvmhost.conformance.runners import batch, kvm, make
from kvmhost.conformance.switchers import under_test


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the worker's folder is made; it must be empty again."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "what", "cause"),
    [
        ("kvmhost.no_such_worker", "the worker of the kvm runner ended", "No module named"),
        ("this", "the worker of the kvm runner talks nonsense", "it said nothing"),
    ],
)
def test_a_worker_that_is_none(
    folders: Path, monkeypatch: pytest.MonkeyPatch, module: str, what: str, cause: str
) -> None:
    monkeypatch.setattr(kvm, "WORKER", module)
    with pytest.raises(MachineryBroke) as caught, make("kvm", backend="native"):
        pass
    assert what in caught.value.message
    assert cause in caught.value.cause


def test_a_lab_that_cannot_start_is_told_in_one_line(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folders))
    with pytest.raises(RunnerAbsent) as caught, make("kvm", backend="lab"):
        pass
    assert "is not installed; what to do: install" in caught.value.cause
    assert caught.value.cause.isprintable() and "kvmhost: " not in caught.value.cause


def test_a_worker_that_may_not_open_kvm(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = {"message": "open", "cause": "permission denied", "next_step": "join the group kvm"}
    monkeypatch.setattr(kvm.Worker, "_listen", lambda self: {"error": error})
    monkeypatch.setattr(kvm, "WORKER", "this")
    with pytest.raises(RunnerAbsent, match="open failed") as caught, make("kvm", backend="native"):
        pass
    assert (caught.value.cause, caught.value.next_step) == ("permission denied", "join the group kvm")


STUB = """
import json, sys
print(json.dumps({"hello": {}}), flush=True)
for line in sys.stdin:
    order = json.load(open(line.rstrip("\\n")))
    with open(order["folder"] + "/" + order["answer"], "wb") as answer:
        answer.write(bytes(sum(size for _, size in order["results"])))
    details = {"0": {"hidden": {"line": len(line), "order": len(json.dumps(order)), "room": "x" * 200_000}}}
    said = {"done": "", "details": details, "runs": 1, "starts": 1, "run_seconds": 0}
    print(json.dumps(said), flush=True)
"""


def test_an_order_never_waits_for_an_answer(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are longer than a pipe; what goes through it fits, however late the worker reads it."""
    module = folders / "stub_worker.py"
    module.write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", str(folders))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(kvm, "WORKER", "stub_worker")
    one = replace(case("one", "cd2f"), event=Event("nmi", at=0x416000))
    laid = batch.build([one] * 600)
    worker = kvm.Worker("native")
    try:
        worker.hello()
        said = [answer.observation(0).hidden for answer in worker.play_all([laid] * 3)]
    finally:
        worker.close()
        module.unlink()
    assert len(said) == 3
    for each in said:
        assert int(each["order"]) > 1 << 16
        assert int(each["line"]) < select.PIPE_BUF


@pytest.mark.parametrize(
    ("said", "choice"),
    [
        (b'{"native": {"ok": true, "reason": "works"}}', ("native", "")),
        (b'{"native": {"ok": false, "reason": "no paging"}}', ("lab", "no paging")),
    ],
)
def test_the_doctor_chooses(monkeypatch: pytest.MonkeyPatch, said: bytes, choice: tuple[str, str]) -> None:
    def doctor(words: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        assert words[-2:] == ["doctor", "--json"]
        return subprocess.CompletedProcess(words, 0, said, b"")

    monkeypatch.setattr(kvm.subprocess, "run", doctor)
    assert kvm._choose() == choice


def test_a_doctor_that_says_nothing_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = subprocess.CompletedProcess([], 4, b"", b"kvmhost: broken")
    monkeypatch.setattr(kvm.subprocess, "run", lambda *_, **__: silent)
    with pytest.raises(MachineryBroke, match="doctor") as caught:
        kvm._choose()
    assert "kvmhost: broken" in caught.value.cause


@pytest.mark.parametrize(
    ("hello", "backend", "code"),
    [
        ({"hypervisor": True, "vendor": "AuthenticAMD", "parameters": {}}, "lab", "TCG"),
        ({"hypervisor": True, "vendor": "AuthenticAMD", "parameters": {"kvm_amd.npt": "1"}}, "native", "NST"),
        ({"hypervisor": False, "vendor": "AuthenticAMD", "parameters": {"kvm_amd.npt": "0"}}, "native", "AS"),
        (
            {"hypervisor": False, "vendor": "GenuineIntel", "parameters": {"kvm_intel.ept": "N"}},
            "native",
            "IS",
        ),
        ({"hypervisor": False, "vendor": "GenuineIntel", "parameters": {}}, "native", ""),
        ({"hypervisor": False, "vendor": "CentaurHauls", "parameters": {}}, "native", ""),
    ],
)
def test_the_class_of_an_environment(hello: dict[str, Any], backend: str, code: str) -> None:
    assert kvm.class_code(hello, backend) == code


def test_intel_with_and_without_unrestricted_guest() -> None:
    hello: dict[str, Any] = {"hypervisor": False, "vendor": "GenuineIntel"}
    for setting, code in (("Y", "IU"), ("N", "IN")):
        hello["parameters"] = {"kvm_intel.ept": "Y", "kvm_intel.unrestricted_guest": setting}
        assert kvm.class_code(hello, "native") == code


@pytest.mark.lab
def test_a_case_that_hangs_before_its_event_is_over_and_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(kvm.PATIENCE, "native", 1)
    seen: dict[str, Observation] = {}
    with make("kvm", backend="native") as runner:
        runner.run(
            [trip("hangs", "jmp $", b"\xeb\xfe"), trip("goes home", "int 0x1f", b"\xcd\x1f")],
            lambda case, observation: seen.setdefault(case.name, observation),
        )
    assert seen["hangs"].outcome == "broken"
    assert "the place of its event was never reached: the case hangs" in seen["hangs"].detail
    assert seen["goes home"].outcome == "trap" and seen["goes home"].trap.vector == 2  # type: ignore[union-attr]


def trip(name: str, listing: str, code: bytes) -> Case:
    """A trip with an NMI when it is home again."""
    made = spec(
        find("NMI-001"),
        name,
        "trip",
        layers=("L2-seed",),
        code=(Code("G_CODE", listing, code, {}),),
        event={"kind": "nmi", "at": "HOST_CODE+7"},
        expect={"outcome": "trap"},
    )
    row = replace(find("NMI-001"), family="", cases=(made,))
    (case,) = expand(row, {"L2-seed": under_test()["L2-seed"]})
    return case
