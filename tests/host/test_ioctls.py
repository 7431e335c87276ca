"""The hot path, counted from outside: a thousand traps are a thousand KVM_RUN and no other ioctl."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab

TRAPS = 1000
WARM_UP = 10

PROGRAM = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from host import tiny_guest as tiny
from host.stepping import TRAPPING
from kvmhost.host import Machine, Trap

marks = os.open("/dev/null", os.O_WRONLY)
with Machine(8 << 20, switcher=sys.argv[1]) as machine:
    guest = tiny.boot(machine, TRAPPING)
    calls = 0

    @guest.on(Trap.HYPERCALL)
    def count(trap):
        global calls
        calls += 1
        trap.default()
        if calls == {WARM_UP}:
            os.write(marks, b"BEGIN")
        elif calls == {WARM_UP + TRAPS}:
            os.write(marks, b"END")
            machine.stop()

    guest.run(timeout=300)
    print(calls, machine.statistics().runs)
"""


@pytest.mark.parametrize("switcher", ["seed", "hardened"])
def test_a_thousand_traps(switcher: str, tmp_path: Path) -> None:
    strace = shutil.which("strace")
    assert strace, "ci/setup installs strace"
    log = tmp_path / "strace.log"
    run = subprocess.run(
        [
            *(strace, "-f", "--seccomp-bpf", "-e", "trace=ioctl,write", "-o", str(log)),
            *(sys.executable, "-P", "-c", PROGRAM, switcher),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    text = log.read_text()
    begin, end = text.index('"BEGIN"'), text.index('"END"')
    ioctls = re.findall(r"\bioctl\(\d+, (\w+)", text[begin:end])
    assert set(ioctls) == {"KVM_RUN"}
    assert len(ioctls) == TRAPS
    calls, runs = map(int, run.stdout.split())
    assert calls == WARM_UP + TRAPS
    assert runs >= calls
