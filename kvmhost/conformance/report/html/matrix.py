"""The mutation matrix: which row notices which defect, and which rows have proved that they can fail."""

from __future__ import annotations

from collections.abc import Iterable

from kvmhost.conformance.report.html.markup import Content, Markup, tag
from kvmhost.conformance.report.html.parts import row_link, section, table
from kvmhost.conformance.report.words import number
from kvmhost.conformance.results import Control, Mutant, MutationMatrix, Run

#: How many rows are named for one defect.
SHOWN = 24
#: Measures of the picture, in pixels; cells shrink until the columns fit into the page.
LARGEST, SMALLEST, LEFT, TOP, ROOM = 11, 7, 44, 76, 1180


def mutations(run: Run) -> Markup | None:
    """The section; nothing without a matrix."""
    if run.matrix is None or not run.matrix.mutants:
        return None
    matrix = run.matrix
    defects = by_id(matrix)
    survivors = sum(not one.killed_by for one in matrix.mutants)
    head = f"{number(len(defects), 'named defect')}, put into Switchers and what is around them on purpose, "
    head += f"{number(len(matrix.mutants), 'time')} in all: "
    head += f"{survivors} unnoticed" if survivors else "every one is noticed"
    return section(
        "mutations",
        "Mutation matrix",
        tag("div", picture(defects), class_="scroll"),
        table(["", "defect", "put into", "noticed by"], map(line, defects.values()), "mutants"),
        controls(matrix),
        unproved(run),
        about=f"{head}. Run on {matrix.runner}, {matrix.made}. A row that never failed proves nothing.",
    )


def controls(matrix: MutationMatrix) -> Markup | None:
    """The cases that break on purpose, by their rows."""
    if not matrix.controls:
        return None
    rows: dict[str, list[Control]] = {}
    for one in matrix.controls:
        rows.setdefault(one.row, []).append(one)
    lines = [
        (row_link(row), [tag("div", one.case) for one in found], ", ".join({one.runner: 0 for one in found}))
        for row, found in rows.items()
    ]
    return table(["row", "negative controls, which broke as predicted", "on"], lines, "mutants")


def by_id(matrix: MutationMatrix) -> dict[str, list[Mutant]]:
    """A defect may have been put into several things: these together, by its name."""
    found: dict[str, list[Mutant]] = {}
    for one in matrix.mutants:
        found.setdefault(one.id, []).append(one)
    return found


def line(planted: list[Mutant]) -> Iterable[Content]:
    """One defect in words: who noticed it, and where that was not the same everywhere, who where."""
    same = len({one.killed_by for one in planted}) == 1
    remarks = dict.fromkeys(one.remark for one in planted if one.remark)
    return (
        tag("span", planted[0].id, class_="id"),
        (planted[0].title, [tag("p", remark, class_="about") for remark in remarks]),
        [tag("div", target(one)) for one in planted],
        killers(planted[0])
        if same
        else [tag("div", tag("span", f"{target(one)}: ", class_="about"), killers(one)) for one in planted],
    )


def target(one: Mutant) -> str:
    """What the defect was put into, and on what runner that was played."""
    return f"{one.target} ({one.runner})" if one.runner else one.target


def killers(one: Mutant) -> Content:
    """The rows that noticed it."""
    if not one.killed_by:
        return tag("span", tag("i", "✗"), " nobody", class_="badge s-fail")
    shown = [tag("span", row_link(row), " ") for row in one.killed_by[:SHOWN]]
    more = f"and {len(one.killed_by) - SHOWN} more" if len(one.killed_by) > SHOWN else None
    return [shown, more]


def picture(defects: dict[str, list[Mutant]]) -> Markup:
    """Defects down, rows across, a dot where one notices the other."""
    columns = sorted({row for planted in defects.values() for one in planted for row in one.killed_by})
    cell = max(SMALLEST, min(LARGEST, (ROOM - LEFT) // max(1, len(columns))))
    width, height = LEFT + cell * (len(columns) + 1), TOP + cell * (len(defects) + 1)
    return tag(
        "svg",
        [column(place, row, cell) for place, row in enumerate(columns)],
        [lane(place, planted, columns, cell) for place, planted in enumerate(defects.values())],
        class_="matrix",
        viewBox=f"0 0 {width} {height}",
        width=str(width),
        height=str(height),
        role="img",
        aria_label="defects down, rows across; the table beneath says the same",
    )


def column(place: int, row: str, cell: int) -> Markup:
    """A row's name, written upwards."""
    x = LEFT + cell * place + cell - 2
    return tag(
        "text", row, transform=f"translate({x} {TOP - 5}) rotate(-90)", class_="axis", font_size=font(cell)
    )


def font(cell: int) -> str:
    """The size of a name beside a cell."""
    return str(min(8.5, cell))


def lane(place: int, planted: list[Mutant], columns: list[str], cell: int) -> Markup:
    """A defect and its dots."""
    y, name = TOP + cell * place, planted[0].id
    noticed = dict.fromkeys(row for one in planted for row in one.killed_by)
    dots = [
        tag(
            "rect",
            tag("title", f"{name}, {planted[0].title}: noticed by {row}"),
            x=str(LEFT + cell * columns.index(row) + 0.5),
            y=str(y + 0.5),
            width=str(cell - 1),
            height=str(cell - 1),
            rx="1.5",
            class_="dot",
        )
        for row in noticed
    ]
    ground = tag(
        "rect", x="0", y=str(y), width="100%", height=str(cell), class_="lane odd" if place % 2 else "lane"
    )
    label = tag("text", name, x=str(LEFT - 6), y=str(y + cell - 1), class_="axis name", font_size=font(cell))
    return tag(
        "g", ground, label, dots, class_=False if all(one.killed_by for one in planted) else "survivor"
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
