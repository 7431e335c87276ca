"""What every test of the command line needs: to be nobody's sudo."""

import pytest


@pytest.fixture(autouse=True)
def not_under_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in this process; if sudo started the tests, one of them would give their rights away."""
    for variable in ("SUDO_UID", "SUDO_GID"):
        monkeypatch.delenv(variable, raising=False)
