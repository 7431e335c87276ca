"""Whatever a Guest does, its shadow permits what its own tables permit, and never more."""

import pytest
from host.paging_model import World
from host.paging_steps import Step, run, scenarios
from hypothesis import HealthCheck, given, settings

from kvmhost.host.memory import VmMemory
from kvmhost.host.page_pool import LEAST_PAGES
from kvmhost.host.paging import POOL_PAGES

EXAMPLES = settings(
    max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("pool_pages", [POOL_PAGES, LEAST_PAGES])
@pytest.mark.parametrize("pae", [False, True], ids=["two-level", "pae"])
@EXAMPLES
@given(scenario=scenarios)
def test_never_more_than_the_guest_allows(pae: bool, pool_pages: int, scenario: list[Step]) -> None:
    with VmMemory() as memory:
        run(World(memory, pae, pool_pages=pool_pages), scenario)
