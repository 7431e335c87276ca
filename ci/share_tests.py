"""A pytest plugin that lets several runs share one set of tests: each test file is run by
whichever run comes to it first.

The lab has one CPU and is thirty times slower than the machine around it, so ci/test starts
two. Sharing as they go keeps both busy to the end without a list that somebody has to
balance. A file is claimed by making a folder in KVMHOST_CLAIMS, which both labs see: that
succeeds for one of them only. Whoever ends has found every file claimed, so that when both
end well every test has run.
"""

from __future__ import annotations

import os
from itertools import groupby
from pathlib import Path

import pytest


def claim(file: Path, root: Path) -> bool:
    """Whether `file` is ours to run: true for one run only, whoever asks first."""
    name = "+".join(file.relative_to(root).parts)
    try:
        Path(os.environ["KVMHOST_CLAIMS"], name).mkdir()
    except FileExistsError:
        return False
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Runs the claimed files; what pytest's own loop does about errors stays as it is."""
    if session.testsfailed:
        return None  # Collecting failed: pytest's own loop says so.
    for file, group in groupby(session.items, key=lambda item: item.path):
        if claim(file, session.config.rootpath):
            run(session, list(group))
    return True


def run(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Runs tests one after the other and tears everything down behind the last."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
