"""The Journey: the project's own commentary, found by its tags and put in reading order.

lguest was written to be read from beginning to end, and so is this.  A place worth stopping at carries a tag
in square brackets as the first word of its comment: a letter for the part, a number for the place.

    C and assembler     /* [S70] The Host's own TSS is still marked busy ... */
    Python              # [T20] Who is asking? ...          (a comment of whole lines, at any indentation)
    or bare             # [T30] above a def or class, whose docstring then speaks

The rules, which `problems` enforces and a test runs over the whole tree:

  - the letter is one of PARTS, which also says in which order the parts are read;
  - inside a part the numbers count 10, 20, 30 ... without a gap, over all files of that part; a place that is
    found later may take a number between two tens;
  - no tag is used twice, and none stands there without a word of prose;
  - in a .S file a global label that follows an empty line or a comment begins a block, and each block has a
    tag of its own between the code before it and that label; no instruction stands before the first tag.

The code beside a stop goes on until the next stop, and not beyond the function or statement it belongs to.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PARTS = {
    "H": "The Host at ring 0",
    "S": "The Switcher of 2007",
    "V": "The 256 stubs",
    "X": "The hardened Switcher",
    "R": "The run loop",
    "T": "What a trap means",
    "D": "The devices",
    "G": "The Guests",
    "P": "The doctor's probes",
    "M": "The monitor of conformance",
    "B": "The benchmarks",
    "L": "The lab",
}
STEP = 10
TAG = re.compile(r"\[([A-Z])([0-9]+)\](?:\s|$)")
#: Where tagged sources lie, relative to the repository.
FOLDERS = ("native", "guests", "kvmhost")
LABEL = re.compile(r"([A-Za-z_][\w$]*):(.*)")


@dataclass(frozen=True, slots=True)
class Stop:
    """One place on the Journey: its tag, where it stands (lines count from 1), its prose and its code."""

    part: str
    number: int
    path: str
    line: int
    prose: tuple[str, ...]
    code_line: int
    code: tuple[str, ...]

    @property
    def tag(self) -> str:
        return f"{self.part}{self.number}"

    @property
    def headline(self) -> str:
        """The first sentence, on one line."""
        text = " ".join(" ".join(self.prose).split())
        return re.split(r"(?<=[.:;?!])\s", text, maxsplit=1)[0]


@dataclass(slots=True)
class Source:
    """One file: its path relative to the repository, its lines, and the stops found in it."""

    path: str
    lines: list[str]
    stops: list[Stop] = field(default_factory=list)

    @property
    def suffix(self) -> str:
        return Path(self.path).suffix


def installed_sources() -> Iterator[Source]:
    """The sources that came with this installation: the native ones and the Guests' are package data."""
    package = Path(__file__).resolve().parent.parent
    yield from sources_in(package / "data" / "journey")
    yield from sources_in(package.parent, ("kvmhost",))


def sources_in(root: Path, folders: Iterable[str] = FOLDERS) -> Iterator[Source]:
    """Every C, assembler and Python file below these folders of a tree, in the order of their names."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            relative = path.relative_to(root)
            if path.suffix in (".S", ".c", ".h", ".py") and relative.parts[:2] != ("kvmhost", "data"):
                yield read_source(relative.as_posix(), path.read_text())


def read_source(path: str, text: str) -> Source:
    """Find the stops of one file.

    >>> read_source("a.S", "/* [S10] Here. */\\nnop\\n").stops[0].code
    ('nop',)
    """
    source = Source(path, text.splitlines())
    comments = list(tagged_comments(source))
    borders = [start for start, _ in comments] + [len(source.lines)]
    for (start, end), following in zip(comments, borders[1:], strict=True):
        prose = prose_of(source.lines[start:end])
        match = TAG.match(prose[0])
        if match is None:
            raise ValueError(f"{path}:{start + 1}: a tagged comment without a tag")
        prose[0] = prose[0][match.end() :].lstrip()
        if not any(prose) and source.suffix == ".py":
            prose = docstring_below(source, end)
        first, code = code_between(source, start, end, following)
        source.stops.append(
            Stop(
                match[1], int(match[2]), path, start + 1, tuple(without_blank_ends(prose)[1]), first + 1, code
            )
        )
    return source


def tagged_comments(source: Source) -> Iterator[tuple[int, int]]:
    """The comments that begin with a tag, as [first line, line after the last), counted from 0."""
    lines = source.lines
    mark = "#" if source.suffix == ".py" else "/*"
    number = 0
    while number < len(lines):
        start = number
        number += 1
        if not lines[start].lstrip().startswith(mark):
            continue
        if mark == "#":
            while number < len(lines) and lines[number].lstrip().startswith("#"):
                if TAG.match(lines[number].lstrip().lstrip("#").lstrip()):
                    break
                number += 1
        else:
            while "*/" not in lines[number - 1] and number < len(lines):
                number += 1
        if TAG.match(" ".join(prose_of(lines[start:number])).lstrip()):
            yield start, number


def prose_of(comment: list[str]) -> list[str]:
    """The words of a comment without what makes it a comment; indentation inside the text stays.

    >>> prose_of(["\\t/* [S10] One", "\\t * two. */"])
    ['[S10] One', 'two.']
    """
    words = [re.sub(r"^\s*(/\*+|\*(?!/)|#)? ?", "", re.sub(r"\s*\*/\s*$", "", line)) for line in comment]
    return without_blank_ends([line.rstrip() for line in words])[1] or [""]


def without_blank_ends(lines: list[str]) -> tuple[int, list[str]]:
    """The lines without empty ones at both ends, and how many went at the beginning."""
    filled = [number for number, line in enumerate(lines) if line.strip()]
    if not filled:
        return 0, []
    return filled[0], lines[filled[0] : filled[-1] + 1]


def code_between(source: Source, start: int, end: int, following: int) -> tuple[int, tuple[str, ...]]:
    """First line and code of the stop whose comment is [start, end); `following` is the next stop's line."""
    stop = following
    if source.suffix == ".py":
        stop = min(stop, end_of_statement(source, start, end))
    elif source.suffix != ".S":
        stop = min(stop, end_of_definition(source.lines, end))
    skipped, code = without_blank_ends(source.lines[end:stop])
    return end + skipped, tuple(line.expandtabs(8).rstrip() for line in code)


def docstring_below(source: Source, end: int) -> list[str]:
    """In Python a bare tag above a function or a class lets its docstring speak: the first paragraph."""
    node = definition_below(source, end)
    return [] if node is None else (ast.get_docstring(node) or "").split("\n\n")[0].splitlines()


def definition_below(source: Source, end: int) -> ast.FunctionDef | ast.ClassDef | None:
    """In Python: the function, method or class that begins right below a comment."""
    for node in ast.walk(ast.parse("\n".join(source.lines))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first == end + 1:
                return node
    return None


def end_of_definition(lines: list[str], end: int) -> int:
    """In C: behind the brace that closes at the margin, or in front of the next comment at the margin."""
    for number in range(end, len(lines)):
        if lines[number] in ("}", "};"):
            return number + 1
        if number > end and lines[number].startswith("/*"):
            return number
    return len(lines)


def end_of_statement(source: Source, start: int, end: int) -> int:
    """In Python: behind the statement under the comment, or where the block that holds the comment ends."""
    definition = definition_below(source, end)
    if definition is not None:
        return definition.end_lineno or len(source.lines)
    indent = len(source.lines[start]) - len(source.lines[start].lstrip())
    if indent:
        for number in range(end, len(source.lines)):
            line = source.lines[number]
            if line.strip() and len(line) - len(line.lstrip()) < indent:
                return number
        return len(source.lines)
    for statement in ast.parse("\n".join(source.lines)).body:
        first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", ()))])
        if first > end and statement.end_lineno is not None:
            return statement.end_lineno
    return len(source.lines)


def in_reading_order(sources: Iterable[Source]) -> list[Stop]:
    """All stops: part by part, place by place."""
    order = list(PARTS)
    stops = [stop for source in sources for stop in source.stops if stop.part in PARTS]
    return sorted(stops, key=lambda stop: (order.index(stop.part), stop.number))


def problems(sources: Iterable[Source]) -> list[str]:
    """What breaks the rules at the top of this file, one sentence each; an empty list if nothing does."""
    sources = list(sources)
    found = [problem for source in sources if source.suffix == ".S" for problem in untagged_blocks(source)]
    places: dict[str, dict[int, Stop]] = {}
    for stop in (stop for source in sources for stop in source.stops):
        here = f"{stop.path}:{stop.line}"
        if stop.part not in PARTS:
            found.append(f"{here}: [{stop.tag}] belongs to no part")
            continue
        if not stop.prose:
            found.append(f"{here}: [{stop.tag}] says nothing")
        earlier = places.setdefault(stop.part, {}).setdefault(stop.number, stop)
        if earlier is not stop:
            found.append(f"{here}: [{stop.tag}] stands at {earlier.path}:{earlier.line} already")
    for part, numbers in places.items():
        for number in range(STEP, max(numbers), STEP):
            if number not in numbers:
                found.append(f"part {part} goes on to [{part}{max(numbers)}] without [{part}{number}]")
    return found


def untagged_blocks(source: Source) -> Iterator[str]:
    """Pieces of assembler that begin with a global label, or with the file, and have no tag above them."""
    tagged_lines = {stop.line for stop in source.stops}
    exported: set[str] = set()
    tagged = False
    apart = True
    waiting = "the beginning of the file"
    for number, line in enumerate(assembler_only(source.lines), 1):
        tagged = tagged or number in tagged_lines
        words = line.split()
        if words and words[0] in (".globl", ".global"):
            exported.update(word.strip(",") for word in words[1:])
            continue
        label = LABEL.match(line.strip())
        if label is not None:
            if apart and label[1] in exported:
                waiting = f"the block {label[1]}"
            line = label[2]
        apart = apart or not words
        if not line.strip() or line.strip().startswith((".", "#")) or re.match(r"\s*\d+:\s*$", line):
            continue
        if waiting and not tagged:
            yield f"{source.path}:{number}: {waiting} has no tag of its own"
        waiting, tagged, apart = "", False, False


def assembler_only(lines: list[str]) -> Iterator[str]:
    """The lines, with those of comments, preprocessor and macro definitions made empty."""
    text = re.sub(r"/\*.*?\*/", lambda comment: "\n" * comment[0].count("\n"), "\n".join(lines), flags=re.S)
    continued = False
    macros = 0
    for line in text.split("\n"):
        words = line.split()
        macros += words[:1] == [".macro"]
        directive = continued or line.lstrip().startswith("#")
        continued = directive and line.endswith("\\")
        yield "" if directive or macros else line
        macros -= words[:1] == [".endm"]
