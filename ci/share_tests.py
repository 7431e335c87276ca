"""A pytest plugin that lets several runs share one list of tests: each test is run by
whichever run comes to it first.

The lab has one CPU and is thirty times slower than the machine around it, so ci/test starts
two. Sharing as they go keeps both busy to the end without a list that somebody has to
balance. A test is claimed by making a folder in KVMHOST_CLAIMS, which both labs see: that
succeeds for one of them only. Whoever ends has found every test claimed, so that when both
end well every test has run.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest


def claim(test: pytest.Item) -> bool:
    """Whether a test is ours to run: true for one run only, whoever asks first."""
    name = hashlib.sha256(test.nodeid.encode()).hexdigest()
    try:
        Path(os.environ["KVMHOST_CLAIMS"], name).mkdir()
    except FileExistsError:
        return False
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Runs the claimed tests; what pytest's own loop does about errors stays as it is."""
    if session.testsfailed:
        return None  # Collecting failed: pytest's own loop says so.
    for test, following in zip(session.items, [*session.items[1:], None], strict=True):
        if not claim(test):
            continue
        # The test before left set up what it shares with the one that followed it. That one
        # may have gone to the other run, so what this one does not share is torn down first.
        session._setupstate.teardown_exact(test)
        test.config.hook.pytest_runtest_protocol(item=test, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
    return True
