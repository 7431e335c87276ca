"""What `pytest --pyargs kvmhost.conformance` collects: one test a row and runner, made by plugin.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kvmhost.conformance.results import RowResult


def test_row(conformance_result: RowResult) -> None:
    """Passes if every case of the row came out as the manuals say."""
    from kvmhost.conformance.report.words import told
    from kvmhost.conformance.results import Status

    status = conformance_result.status()
    cases = [case for case in conformance_result.cases if case.status is status]
    if status is Status.FAIL:
        words = [f"{case.case} on {case.layer}: {told(case)}" for case in cases]
        more = f"kvmhost conform --explain {conformance_result.id} --runner {cases[0].runner}"
        pytest.fail(
            "\n".join([f"{conformance_result.id}: {conformance_result.title}", *words, more]), pytrace=False
        )
    reasons = "; ".join(dict.fromkeys(case.because for case in cases if case.because))
    if status is Status.XFAIL:
        pytest.xfail(f"{status.word}: {reasons}")
    if status is not Status.PASS:
        pytest.skip(f"{status.word}: {reasons}")
