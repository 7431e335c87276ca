"""The last steps of a case, as QEMU's own log has them."""

import pytest

from kvmhost.conformance.expand import expand
from kvmhost.conformance.row import find
from kvmhost.conformance.runners.tcg import TcgRunner
from kvmhost.conformance.runners.tcg_trace import words
from kvmhost.conformance.stage import ADDRESS, STOP


def test_every_step_of_a_case_and_no_other() -> None:
    case = expand(find("SEN-010"))[0]
    assert case.cpu is not None
    with TcgRunner() as runner:
        steps = runner.trace(case)
    stub = ADDRESS["COLLECT"] + 16 * STOP
    assert steps == (case.cpu.eip, case.cpu.eip + 3, stub, stub + 5)


@pytest.mark.parametrize(
    ("version", "option"),
    [("7.2.22", "-singlestep"), ("8.0.4", "-singlestep"), ("8.1.0", "-accel"), ("10.0.2", "-accel")],
)
def test_qemu_is_asked_in_the_words_of_its_version(version: str, option: str) -> None:
    assert words(f"QEMU emulator version {version} (Debian)", "log")[0] == option
