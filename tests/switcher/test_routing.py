"""All 256 vectors are raised at ring 1 and at ring 3, and each is seen to go where it must.

A table that says where a stub jumps was compared elsewhere; here the CPU goes
there.  Vectors for which the CPU pushes an error code are raised through a few
bytes that push one in its place.
"""

from __future__ import annotations

from collections.abc import Set

import pytest
from switcher.reference import DELIVERED, ERROR_CODES_2007, ERROR_CODES_TODAY
from switcher.rig import CODE_AT, GENERAL, Rig, host_state, interrupts, planted, rig

pytestmark = pytest.mark.lab

CODES = {"seed": ERROR_CODES_2007, "hardened": ERROR_CODES_TODAY}
# 2007 drops an NMI; hardened takes it to the Host.
HEARD = {"seed": DELIVERED, "hardened": DELIVERED | {2}}


def raise_all(machine: Rig, switcher: str, cs: int) -> None:
    """Raise every vector in turn and look at each arrival."""
    for vector in range(256):
        if switcher == "seed" and vector == 2:
            continue
        arrival = machine.switch()
        code = 0xE0C0DE00 + vector if vector in CODES[switcher] else 0
        assert arrival.vector == vector
        assert arrival.error_code == code, vector
        assert arrival.eip == CODE_AT + 2 * vector + 2, vector
        assert arrival.cs == cs, vector
        assert arrival.handler == (vector if vector in HEARD[switcher] else None), vector
        assert machine.registers() == [planted(place) for place in range(len(GENERAL))], vector


def prepare(machine: Rig, switcher: str, deaf: Set[int] = frozenset()) -> None:
    machine.listen(HEARD[switcher] - deaf)
    for vector in range(256):
        if vector in CODES[switcher]:
            machine.push_code(vector, 0xE0C0DE00 + vector)
        else:
            machine.open_gate(vector)


@pytest.mark.parametrize("switcher", ["seed", "hardened"])
@pytest.mark.parametrize(("ring", "cs"), [(1, 0x61), (3, 0x73)])
def test_every_vector_goes_where_it_must(switcher: str, ring: int, cs: int) -> None:
    with rig(switcher, interrupts(range(256)), ring) as machine:
        prepare(machine, switcher)
        before = host_state(machine.cpu)
        raise_all(machine, switcher, cs)
        assert host_state(machine.cpu) == before


@pytest.mark.parametrize("switcher", ["seed", "hardened"])
def test_the_observation_catches_a_wrong_stub(switcher: str) -> None:
    with rig(switcher, interrupts(range(256))) as machine:
        prepare(machine, switcher)
        machine.open_gate(40, machine.blob.gate_address(41))
        with pytest.raises(AssertionError, match="41 == 40"):
            raise_all(machine, switcher, 0x61)


@pytest.mark.parametrize("switcher", ["seed", "hardened"])
def test_the_observation_catches_a_handler_that_did_not_run(switcher: str) -> None:
    with rig(switcher, interrupts(range(256))) as machine:
        prepare(machine, switcher, deaf={50})
        with pytest.raises(AssertionError, match=r"50\s+assert None == 50"):
            raise_all(machine, switcher, 0x61)
