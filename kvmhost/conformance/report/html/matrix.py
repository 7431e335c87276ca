"""The mutation matrix: which row notices which defect, and which rows have proved that they can fail."""

from __future__ import annotations

from collections.abc import Iterable

from kvmhost.conformance.report.html.markup import Content, Markup, tag
from kvmhost.conformance.report.html.parts import row_link, section, table
from kvmhost.conformance.report.words import number
from kvmhost.conformance.results import Mutant, MutationMatrix, Run

#: Measures of the picture, in pixels.
CELL, LEFT, TOP = 11, 74, 76


def mutations(run: Run) -> Markup | None:
    """The section; nothing without a matrix."""
    if run.matrix is None or not run.matrix.mutants:
        return None
    matrix = run.matrix
    survivors = sum(not one.killed_by for one in matrix.mutants)
    head = f"{number(len(matrix.mutants), 'named defect')}, each put into a Switcher on purpose: "
    head += f"{survivors} unnoticed" if survivors else "every one is noticed"
    return section(
        "mutations",
        "Mutation matrix",
        tag("div", picture(matrix), class_="scroll"),
        table(["", "defect", "put into", "noticed by"], [line(one) for one in matrix.mutants], "mutants"),
        unproved(run),
        about=f"{head}. Run on {matrix.runner}, {matrix.made}. A row that never failed proves nothing.",
    )


def line(one: Mutant) -> Iterable[Content]:
    """One defect in words."""
    killers: Content = [tag("span", row_link(row), " ") for row in one.killed_by]
    return (
        tag("span", one.id, class_="id"),
        (one.title, tag("p", one.remark, class_="about") if one.remark else None),
        one.target,
        killers if one.killed_by else tag("span", tag("i", "✗"), " nobody", class_="badge s-fail"),
    )


def picture(matrix: MutationMatrix) -> Markup:
    """Defects down, rows across, a dot where one notices the other."""
    columns = sorted({row for one in matrix.mutants for row in one.killed_by})
    width = LEFT + CELL * len(columns) + CELL
    height = TOP + CELL * len(matrix.mutants) + CELL
    return tag(
        "svg",
        [column(place, row) for place, row in enumerate(columns)],
        [lane(place, one, columns) for place, one in enumerate(matrix.mutants)],
        class_="matrix",
        viewBox=f"0 0 {width} {height}",
        width=str(width),
        height=str(height),
        role="img",
        aria_label="defects down, rows across; the table beneath says the same",
    )


def column(place: int, row: str) -> Markup:
    """A row's name, written upwards."""
    x = LEFT + CELL * place + CELL - 3
    return tag("text", row, transform=f"translate({x} {TOP - 5}) rotate(-90)", class_="axis")


def lane(place: int, one: Mutant, columns: list[str]) -> Markup:
    """A defect and its dots."""
    y = TOP + CELL * place
    dots = [
        tag(
            "rect",
            tag("title", f"{one.id}, {one.title}: noticed by {row}"),
            x=str(LEFT + CELL * columns.index(row) + 1),
            y=str(y + 1),
            width=str(CELL - 2),
            height=str(CELL - 2),
            rx="2",
            class_="dot",
        )
        for row in one.killed_by
    ]
    ground = tag(
        "rect", x="0", y=str(y), width="100%", height=str(CELL), class_="lane odd" if place % 2 else "lane"
    )
    return tag(
        "g",
        ground,
        tag("text", one.id, x=str(LEFT - 6), y=str(y + CELL - 2), class_="axis name"),
        dots,
        class_=False if one.killed_by else "survivor",
    )


def unproved(run: Run) -> Markup | None:
    """The rows of the core set that nothing was seen to make fail."""
    rows = [one for one in run.rows if one.core and not one.waits_for and not one.seen_to_fail_by]
    if not rows:
        return None
    return tag(
        "p",
        tag("b", f"{number(len(rows), 'row')} of the core set never seen to fail: "),
        [(row_link(one.id), " ") for one in rows],
        class_="notice",
    )
