"""The run as JUnit XML, which CI systems read: a suite for each runner and group, a test for each row.

JUnit knows passed, failed, error and skipped.  What is not a pass and no failure either (a known deviation,
what cannot be shown here, what is not written) is skipped with its reason: it must never count as passed.
A fault of the machinery is an error, in a suite of its own.
"""

from __future__ import annotations

from xml.etree import ElementTree as Xml

from kvmhost.conformance.report.words import clean, groups, place, told
from kvmhost.conformance.results import Environment, RowResult, Run, Status

PREFIX = "kvmhost.conformance"


def render(run: Run) -> str:
    """The whole document."""
    root = Xml.Element("testsuites", {"name": "kvmhost conform"})
    for environment in run.environments:
        for group, rows in groups(run.rows).items():
            ran = [row for row in rows if any(case.runner == environment.runner for case in row.cases)]
            if ran:
                root.append(suite(run, environment, group, ran))
    wrong = [clean(trouble) for trouble in run.troubles]
    wrong += [clean(f"{one.runner} did not run: {one.why}") for one in run.absent]
    wrong += [f"ended early: {clean(run.interrupted)}"] if run.interrupted else []
    if wrong:
        root.append(machinery(run, wrong))
    totals(root, list(root))
    Xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, encoding="unicode") + "\n"


def suite(run: Run, environment: Environment, group: str, rows: list[RowResult]) -> Xml.Element:
    """The rows of one group on one runner."""
    name = f"{PREFIX}.{environment.runner}.{clean(group)}"
    element = Xml.Element("testsuite", {"name": name, "timestamp": run.started.removesuffix("Z")})
    properties = Xml.SubElement(element, "properties")
    for key, value in (
        ("environment", place(environment)),
        ("class", environment.class_code or "not known"),
        ("deviations", " ".join(environment.masked)),
        ("seed", str(run.seed)),
    ):
        Xml.SubElement(properties, "property", {"name": key, "value": clean(value)})
    for row in rows:
        element.append(test(row, environment.runner, name))
    totals(element, list(element.iter("testcase")))
    return element


def test(row: RowResult, runner: str, suite_name: str) -> Xml.Element:
    """One row on one runner."""
    element = Xml.Element("testcase", {"classname": suite_name, "name": clean(row.id), "time": "0"})
    status = row.status(runner)
    cases = [case for case in row.cases if case.runner == runner and case.status is status]
    lines = [f"[{clean(case.case)}] on {case.layer}: {told(case) or case.status.word}" for case in cases]
    if status is Status.FAIL:
        about = {"message": clean(f"{row.title}: {lines[0]}"), "type": status.value}
        Xml.SubElement(element, "failure", about).text = "\n".join(lines)
    elif status is not Status.PASS:
        reasons = dict.fromkeys(clean(case.because) for case in cases if case.because)
        Xml.SubElement(
            element, "skipped", {"message": ": ".join([status.word, "; ".join(reasons) or "no reason given"])}
        )
    return element


def machinery(run: Run, wrong: list[str]) -> Xml.Element:
    """What kept this run from being whole."""
    name = f"{PREFIX}.machinery"
    element = Xml.Element("testsuite", {"name": name, "timestamp": run.started.removesuffix("Z")})
    for count, text in enumerate(wrong, start=1):
        one = Xml.SubElement(
            element, "testcase", {"classname": name, "name": f"trouble {count}", "time": "0"}
        )
        Xml.SubElement(one, "error", {"message": text, "type": "machinery"})
    totals(element, list(element))
    return element


def totals(element: Xml.Element, inside: list[Xml.Element]) -> None:
    """The counts that JUnit wants: of tests for a suite, of suites for the whole."""
    of_suites = element.tag == "testsuites"
    sums = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for part in inside:
        if of_suites:
            sums = {key: value + int(part.attrib[key]) for key, value in sums.items()}
            continue
        sums["tests"] += 1
        for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            sums[key] += part.find(tag) is not None
    for key, value in sums.items():
        if not (of_suites and key == "skipped"):  # the schema has it for suites only
            element.set(key, str(value))
    element.set("time", "0")
