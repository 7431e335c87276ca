"""Which rows a command line means, and what is said when it means none."""

import pytest

from kvmhost.conformance.errors import SelectionError
from kvmhost.conformance.row import catalogue
from kvmhost.conformance.selection import described, select


def ids(*words: str, scope: object = None) -> list[str]:
    return [row.id for row in select(words, scope)]  # type: ignore[arg-type]


def test_the_core_set_is_what_is_run_without_words() -> None:
    assert ids() == [row.id for row in catalogue() if row.core] == ids(scope="core")
    assert 150 < len(ids()) < 180


def test_all_is_everything_but_stress() -> None:
    everything = {row.id for row in catalogue()}
    assert len(everything) == 367 and set(ids(scope="stress")) == everything
    left = everything - set(ids(scope="all"))
    assert left and all(row.kind == "S" and not row.core for row in catalogue() if row.id in left)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("SW-NMI-006", ["NMI-006"]),
        ("nmi-006", ["NMI-006"]),
        ("ENT-001", ["SW-ENT-001"]),
        ("SEN-00[12]", ["SEN-001", "SEN-002"]),
        ("SW-ENT-00?", [f"SW-ENT-00{number}" for number in range(1, 8)]),
    ],
)
def test_names_and_patterns(word: str, expected: list[str]) -> None:
    assert ids(word) == expected


def test_a_group_is_all_its_rows_and_the_order_is_the_catalogues() -> None:
    assert ids("SNP", "IOP") == [row.id for row in catalogue() if row.group in ("IOP", "SNP")]
    assert set(ids("IOP", scope="core")) == {"IOP-001", "IOP-005"}


@pytest.mark.parametrize(("word", "hint"), [("SW-ENV", "SW-ENT"), ("NMI-066", "NMI-006"), ("*Q", "--list")])
def test_a_word_that_names_nothing(word: str, hint: str) -> None:
    with pytest.raises(SelectionError, match="no row and no group is called") as caught:
        select([word])
    assert hint in caught.value.next_step


def test_words_and_a_scope_that_have_nothing_in_common() -> None:
    with pytest.raises(SelectionError, match="nothing of PRP-008 is in the core set"):
        select(["PRP-008"], "core")


def test_the_selection_in_words() -> None:
    assert described(["NMI", "SEN-*"], "core") == "NMI SEN-* of the core set"
    assert described([], "stress") == "all rows, with stress in full"
