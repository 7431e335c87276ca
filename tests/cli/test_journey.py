"""The Journey's own rules, on planted mistakes and on the project as it stands."""

from pathlib import Path

import pytest

from kvmhost.cli import main
from kvmhost.cli.commentary import (
    Stop,
    in_reading_order,
    installed_sources,
    problems,
    read_source,
    sources_in,
)

REPOSITORY = Path(__file__).parents[2]


def test_the_project_can_be_read_in_order() -> None:
    sources = list(sources_in(REPOSITORY))
    assert {"native/switcher/seed.S", "native/switcher/host.S"} <= {s.path for s in sources if s.stops}
    assert problems(sources) == []


def test_every_assembler_file_is_on_the_journey() -> None:
    assembler = [source for source in sources_in(REPOSITORY) if source.path.endswith(".S")]
    assert len(assembler) >= 4
    assert [source.path for source in assembler if not source.stops] == []


def test_an_installation_carries_the_same_journey() -> None:
    here = [(s.tag, s.path, s.prose, s.code) for s in in_reading_order(sources_in(REPOSITORY))]
    installed = [(s.tag, s.path, s.prose, s.code) for s in in_reading_order(installed_sources())]
    assert installed == here


GOOD = """\
/* [S10] The first block. */
	.globl	one
one:
	nop
/* [S20] The second one,
 * in two lines. */
	.globl	two
two:	ret
"""


@pytest.mark.parametrize(
    ("planted", "complaint"),
    [
        (GOOD.replace("[S10] ", ""), "a.S:4: the block one has no tag of its own"),
        (GOOD.replace("[S20] ", ""), "a.S:8: the block two has no tag of its own"),
        (
            GOOD.replace("/* [S20] The", "\tnop\n/* [S20] The").replace("[S20]", "S20"),
            "the block two has no tag",
        ),
        ("\tnop\n" + GOOD, "a.S:1: the beginning of the file has no tag of its own"),
        (GOOD.replace("[S20]", "[S10]"), "a.S:5: [S10] stands at a.S:1 already"),
        (GOOD.replace("[S20]", "[S30]"), "part S goes on to [S30] without [S20]"),
        (GOOD.replace("[S10]", "[S15]"), "part S goes on to [S20] without [S10]"),
        (GOOD.replace("[S20]", "[Z10]"), "a.S:5: [Z10] belongs to no part"),
        (GOOD.replace("The first block.", ""), "a.S:1: [S10] says nothing"),
    ],
)
def test_a_planted_mistake_is_found(planted: str, complaint: str) -> None:
    assert problems([read_source("a.S", GOOD)]) == []
    assert any(complaint in problem for problem in problems([read_source("a.S", planted)]))


def test_a_place_found_later_needs_no_renumbering() -> None:
    assert problems([read_source("a.S", GOOD + "\t/* [S15] Between. */\n")]) == []


def test_a_global_label_inside_a_block_needs_no_tag() -> None:
    assert problems([read_source("a.S", GOOD + "\tnop\n\t.globl inside\ninside:\n\tret\n")]) == []


def test_a_duplicate_in_another_file_is_found() -> None:
    found = problems([read_source("a.S", GOOD), read_source("b.c", "/* [S20] Again. */\nint x;\n")])
    assert found == ["b.c:1: [S20] stands at a.S:5 already"]


def stops_of(path: str, text: str) -> list[Stop]:
    return read_source(path, text).stops


def test_assembler_prose_and_code() -> None:
    first, second = stops_of("a.S", GOOD)
    assert (first.prose, first.code_line) == (("The first block.",), 2)
    assert first.code == ("        .globl  one", "one:", "        nop")
    assert second.prose == ("The second one,", "in two lines.")
    assert second.code[-1] == "two:    ret"
    assert second.headline == "The second one, in two lines."


def test_a_file_comment_keeps_its_shape() -> None:
    (stop,) = stops_of("a.S", "/*\n * [S10] Title.\n *\n *   - one\n *   - two\n */\n\tnop\n")
    assert stop.prose == ("Title.", "", "  - one", "  - two")


def test_c_code_ends_with_its_function() -> None:
    (stop,) = stops_of("a.c", "/* [R10] It. */\nint f(void)\n{\n\treturn 1;\n}\n\nint g;\n")
    assert stop.code == ("int f(void)", "{", "        return 1;", "}")


def test_python_code_ends_with_its_statement() -> None:
    outer, inner = stops_of(
        "a.py",
        "# [T10] Outer,\n# and more.\n@wraps\ndef f():\n    a = 1\n"
        "    # [T20] Inner.\n    b = 2\n    c = 3\n\n\nd = 4\n",
    )
    assert outer.prose == ("Outer,", "and more.")
    assert (outer.code, outer.code_line) == (("@wraps", "def f():", "    a = 1"), 3)
    assert inner.code == ("    b = 2", "    c = 3")


def test_a_bare_python_tag_lets_the_docstring_speak() -> None:
    text = '# [T10]\n@wraps\ndef f():\n    """Does it.\n\n    Details.\n    """\n    return 1\n\n\nx = 2\n'
    (stop,) = stops_of("a.py", text)
    assert stop.prose == ("Does it.",)
    assert (stop.code[0], stop.code[-1]) == ("@wraps", "    return 1")
    assert problems([read_source("a.py", "# [T10]\nx = 2\n")]) == ["a.py:1: [T10] says nothing"]


def test_a_tagged_method_ends_with_itself() -> None:
    text = (
        'class C:\n    # [T10]\n    def f(self):\n        """Does it."""\n\n    def g(self):\n        pass\n'
    )
    (stop,) = stops_of("a.py", text)
    assert stop.code == ("    def f(self):", '        """Does it."""')


def test_two_python_tags_in_one_run_of_comments() -> None:
    assert [stop.tag for stop in stops_of("a.py", "# [T10] One.\n# [T20] Two.\nx = 1\n")] == ["T10", "T20"]


def test_the_command_prints_prose_and_numbered_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journey", "s70"]) == 0
    printed = capsys.readouterr().out
    (stop,) = (s for s in in_reading_order(sources_in(REPOSITORY)) if s.tag == "S70")
    assert f"[S70]  native/switcher/seed.S, line {stop.line}\n\n" + "\n".join(stop.prose) in printed
    assert f"{stop.code_line:>6} | {stop.code[0]}\n" in printed
    assert "[S80]" not in printed


def test_the_list_is_in_reading_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journey", "--list"]) == 0
    tags = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert tags == [stop.tag for stop in in_reading_order(sources_in(REPOSITORY))]
    assert tags.index("H10") < tags.index("S10") < tags.index("S100") < tags.index("X10")


def test_an_unknown_place_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journey", "Q10"]) == 2
    assert "no place on the Journey is called Q10" in capsys.readouterr().err
