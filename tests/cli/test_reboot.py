"""A Guest that asks to be restarted: with --reboot it lives again, in a new machine, as often as it asks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.elves import BEGIN, NOTIFY, SHUTDOWN, TEXT, hypercall, run

from kvmhost.cli.failures import DONE, GUEST_FAILED

pytestmark = pytest.mark.lab

# It says a word and wants to be born again.
RESTLESS = BEGIN + hypercall(NOTIFY, TEXT) + hypercall(SHUTDOWN, TEXT, 2)


def test_without_reboot_it_ends_well_and_says_what_it_wanted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    assert run(tmp_path, "restless", RESTLESS) == DONE
    out, err = capfd.readouterr()
    assert out == "Power down"
    assert "restless asked to be restarted" in err
    assert "what to do: --reboot boots it again" in err


def test_with_reboot_it_lives_again_and_again_and_the_counters_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It would do so for ever: the time of --timeout is that of all its lives together."""
    capfd.readouterr()
    assert run(tmp_path, "restless", RESTLESS, "--reboot", "--json", "--timeout", "5") == GUEST_FAILED
    out, err = capfd.readouterr()
    (machine,) = json.loads(out)["machines"]
    (guest,) = machine["guests"]
    boots = guest["boots"]
    assert boots > 2
    assert err.count("restless is restarted") == boots - 1
    assert guest["outcome"] == "timed_out"
    assert guest["words"].replace("Power down", "") == ""
    assert guest["words"].count("Power down") in (boots - 1, boots)
    lives = guest["words"].count("Power down")
    assert 3 * lives <= machine["traps"]["hypercall"] + 3 <= 3 * (boots + 1)
