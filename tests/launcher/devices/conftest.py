"""What the devices' tests share."""

from collections.abc import Iterator

import pytest

from kvmhost.host.memory import VmMemory


@pytest.fixture
def memory() -> Iterator[VmMemory]:
    """All of a VM's memory, without a VM."""
    with VmMemory() as opened:
        yield opened
