"""The generated families: their rules against worked examples, and that nothing of a family is left out."""

from collections import Counter

import pytest

from kvmhost.conformance import expand, row
from kvmhost.conformance.case import NO_ERROR, Case
from kvmhost.conformance.families import rights, states, vectors
from kvmhost.conformance.reference import image_of, load


def cases(row_id: str) -> dict[str, Case]:
    return {case.name: case for case in expand.expand(row.find(row_id))}


@pytest.mark.parametrize(
    ("vector", "ring", "dpl", "kind", "external", "expected"),
    [
        # Measured and told in the catalogue: VEC-002, VEC-003.
        (0x80, 1, 0, "interrupt32", False, (13, 0x402)),
        (2, 1, 0, "interrupt32", False, (13, 0x12)),
        (13, 1, 0, "interrupt32", False, (13, 0x6A)),
        (0x83, 1, 1, "not present", False, (11, 0x41A)),
        # The privilege comes before the presence, and the type before both.
        (0x83, 3, 1, "not present", False, (13, 0x41A)),
        (0x83, 3, 1, "bad type", False, (13, 0x41A)),
        # The gate that the fault needs is the defective one.
        (13, 1, 3, "bad type", False, (8, 0)),
        (11, 1, 3, "not present", False, (8, 0)),
        (13, 1, 0, "not present", False, (8, 0)),
        (13, 3, 1, "interrupt32", False, (13, 0x6A)),
        # From outside: no DPL, and EXT is set.
        (0x20, 3, 0, "interrupt32", True, None),
        (0x20, 3, 0, "not present", True, (11, 0x103)),
        (0x20, 1, 0, "bad type", True, (13, 0x103)),
        (0x20, 1, 1, "trap32", False, None),
    ],
)
def test_what_an_interrupt_meets_at_its_gate(
    vector: int, ring: int, dpl: int, kind: str, external: bool, expected: tuple[int, int] | None
) -> None:
    assert vectors.fault_of(vector, ring, dpl, kind, external) == expected


def test_the_matrix_has_every_vector_ring_privilege_and_gate_once() -> None:
    found: Counter[str] = Counter()
    for number in range(1, 5):
        found.update(list(cases(f"VEC-{number:03}")))
    assert len(found) == 256 * 2 * 3 * 4
    assert set(found.values()) == {1}


def test_int_n_pushes_no_error_code_and_returns_behind_itself() -> None:
    case = cases("VEC-001")["int 0xe ring 3 DPL 3 trap32"]
    assert case.expect.trap is not None and case.cpu is not None
    assert case.expect.trap.error == NO_ERROR
    assert case.expect.trap.eip == case.cpu.eip + 2


@pytest.mark.parametrize(
    ("ring", "access", "writable", "user", "protect", "expected"),
    [
        (3, "read", False, True, True, True),
        (3, "read", True, False, True, False),
        (3, "fetch", True, False, False, False),
        (3, "write", False, True, False, False),
        (3, "modify", True, True, True, True),
        (0, "write", False, False, True, False),
        (0, "write", False, True, False, True),
        (1, "write", False, False, False, True),
        (2, "modify", False, True, True, False),
        (2, "fetch", False, False, True, True),
    ],
)
def test_who_may_do_what_to_a_page(
    ring: int, access: str, writable: bool, user: bool, protect: bool, expected: bool
) -> None:
    assert rights.allowed(ring, access, writable, user, protect) is expected


def test_the_truth_table_is_whole_and_has_faults_and_successes() -> None:
    found = cases("PGF-006")
    assert len(found) == 2 * 2 * 4 * 4 * 16
    ends = Counter(case.expect.trap.vector for case in found.values() if case.expect.trap)
    # Ring 3 reads and fetches where both levels are user (4 of 16), writes and modifies where both are
    # writable as well (1 of 16): 2 * 4 + 2 of 64, twice for WP.  Rings 0 to 2 read and fetch everything;
    # they write 4 of 16 with WP = 1 and 16 without.
    good = 2 * (2 * (2 * 4 + 2) + 3 * (4 * 16 + 2 * 4 + 2 * 16))
    assert ends == {0x2F: good, 14: len(found) - good}


def test_the_sweep_over_the_state_page_has_each_dword_twice() -> None:
    alone = [case for case in cases("SEC-003").values() if case.layer == "L1"]
    assert len(alone) == 2 * 1024
    assert {case.expect.cr["cr2"].value for case in alone} == set(range(0xFFC02000, 0xFFC03000, 4))
    assert {case.expect.trap.error for case in alone if case.expect.trap} == {3}


def trips(row_id: str) -> list[Case]:
    """The cases of a family that goes through a Switcher, with a reference's."""
    return expand.expand(row.find(row_id), {"L2-hardened": image_of(load("hardened"))})


def test_random_states_are_the_same_wherever_they_are_drawn_and_differ_among_themselves() -> None:
    assert trips("PRP-001") == trips("PRP-001")
    assert len({case.expect.memory for case in trips("PRP-001")}) == 400
    assert len({case.expect.memory for case in trips("PRP-002")}) == 200


def test_another_seed_draws_other_states() -> None:
    image = {"L2-hardened": image_of(load("hardened"))}
    first, second = (expand.expand(row.find("PRP-002"), image, seed=seed) for seed in (1, 2))
    assert trips("PRP-002") == first
    assert len({case.expect.memory for case in (*first, *second)}) > 395


def test_a_random_guest_may_have_its_state() -> None:
    """No TF, RF, VM, VIF, VIP or IOPL, IF always: what a frame may ask for without being a defect."""
    drawn = states.drawn("guests", "a test of states", 500)
    assert {state["cs"] for state in drawn} == {"GCS", "UCS"}
    for state in drawn:
        assert state["eflags"] & ~0x244ED7 == 0
        assert state["eflags"] & 0x202 == 0x202
        assert (state["cs"], state["ss"]) in {("GCS", "GDS"), ("UCS", "UDS")}
        assert state["cs"] == "GCS" or {state[name] for name in ("ds", "es", "fs", "gs")} <= {"0", "UDS"}


def test_a_snapshot_is_taken_at_every_boundary_of_both_ways() -> None:
    image = image_of(load("hardened"))
    found = expand.expand(row.find("SNP-001"), {"L2-hardened": image})
    at = {case.event.at for case in found if case.event}
    # All but those that a hypercall and an interrupt do not pass: the NMI's and a fault's own.
    assert len(at) >= len(image.boundaries) * 3 // 4
    assert {case.event.kind for case in found if case.event} == {"snapshot"}
