"""A terminal, and a Guest with a console driver in the lab: every key goes all the way in.

Not marked as for the lab: it is started from outside, as a person does.
"""

import signal
import sys

import pytest
from terminals import Terminal

RUN = [sys.executable, "-P", "-m", "kvmhost", "run", "--backend", "lab"]


@pytest.mark.parametrize("name", ["generation-3.1", "generation-4.1"])
def test_what_is_typed_reaches_the_guest(name: str) -> None:
    terminal = Terminal([*RUN, name, "--append", "only console"])
    terminal.wait_for(b"Type a line of text.")
    assert terminal.is_raw()
    terminal.type(b"one \x03 two\x01\x01\n")
    terminal.wait_for(b"It has been read: one \x03 two\x01")
    terminal.wait_for(b"powered off")
    terminal.rest()
    assert terminal.settings() == terminal.found
    assert terminal.exit_code() == 0


@pytest.mark.parametrize("keys", [b"\x01x", b"\x03\x03\x03"])
def test_keys_that_end_it_end_it_in_order(keys: bytes) -> None:
    terminal = Terminal([*RUN, "generation-3.1", "--append", "only console"])
    terminal.wait_for(b"Type a line of text.")
    terminal.type(keys)
    terminal.wait_for(b"interrupted: it was stopped from outside")
    terminal.rest()
    assert terminal.settings() == terminal.found
    assert terminal.exit_code() == 128 + signal.SIGINT


def test_a_signal_ends_the_guest_before_the_lab() -> None:
    terminal = Terminal([*RUN, "generation-3.1", "--append", "only console"])
    terminal.wait_for(b"Type a line of text.")
    terminal.signal(signal.SIGTERM)
    terminal.wait_for(b"interrupted: it was stopped from outside")
    terminal.rest()
    assert terminal.settings() == terminal.found
    assert terminal.exit_code() == 128 + signal.SIGTERM
