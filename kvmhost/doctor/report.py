"""What the doctor found, and how it is written down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from kvmhost.doctor.facts import Facts
from kvmhost.doctor.probes import Answer, ProbeResult

EXIT_CAN, EXIT_CANNOT = 0, 3
LABEL = "{:11} {}"
NO_PASST = "no passt, which --net user needs: apt-get install --no-install-recommends passt"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it works, why (not), and what to change when it does not.

    `backend` is what numbers measured here are labelled with: vmx, svm, or the name of another
    module; empty when nothing runs.

    >>> Verdict(False, "VirtualBox owns the CPU", "stop VirtualBox").next_step
    'stop VirtualBox'
    """

    ok: bool
    reason: str
    next_step: str = ""
    backend: str = ""


@dataclass(frozen=True, slots=True)
class Capability:
    """An answer to KVM_CHECK_EXTENSION; `missing` if kvmhost cannot do without."""

    name: str
    value: int
    needed: bool

    @property
    def missing(self) -> bool:
        """It is needed, and this KVM says no."""
        return self.needed and self.value <= 0


@dataclass(frozen=True, slots=True)
class Report:
    """The whole examination.

    `classes` are codes of the catalogue's environment classes, the real one first (AN below, say,
    with TCG for its silicon); `deviations` are the ids a conformance run masks here. `lab` is None
    when nobody was there to ask about it.
    """

    native: Verdict
    lab: Verdict | None
    facts: Facts
    api_version: int | None
    capabilities: tuple[Capability, ...]
    features: tuple[tuple[str, bool], ...]
    probes: tuple[ProbeResult, ...]
    classes: tuple[str, ...]
    deviations: tuple[str, ...]
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 when Guests can run here natively or in the lab, 3 when this host cannot."""
        can = self.native.ok or (self.lab is not None and self.lab.ok)
        return EXIT_CAN if can else EXIT_CANNOT


def report_to_dict(report: Report) -> dict[str, object]:
    """Everything in a Report as what json can write."""
    whole: dict[str, object] = asdict(report)
    whole["probes"] = [
        {
            "number": probe.number,
            "question": probe.question,
            "answer": str(probe.answer),
            "needed": probe.needed,
            "deviation": probe.masked,
            "detail": probe.ending.describe(),
        }
        for probe in report.probes
    ]
    whole["features"] = dict(report.features)
    whole["exit_code"] = report.exit_code
    return whole


def render_text(report: Report) -> str:
    """A Report for a person, without a trailing newline."""
    return "\n".join(_lines(report))


def _headline(report: Report) -> str:
    if report.native.ok:
        return "Guests can run on this machine."
    if report.lab is not None and report.lab.ok:
        return "Guests can run on this machine in the lab, but not natively."
    return "Guests cannot run on this machine."


def _lines(report: Report) -> Iterator[str]:
    yield _headline(report)
    yield from _verdict("natively", report.native)
    if report.lab is not None:
        yield from _verdict("in the lab", report.lab)
    yield ""
    facts = report.facts
    virtual = ", a virtual machine" if facts.cpu.hypervisor else ""
    yield LABEL.format("machine", f"{facts.cpu.model} ({facts.cpu.vendor or 'unknown vendor'}{virtual})")
    yield LABEL.format("kernel", f"Linux {facts.kernel} on {facts.machine}")
    yield LABEL.format("module", _module(facts))
    yield LABEL.format(facts.node.path, _node(facts))
    for holder in facts.holders:
        yield LABEL.format("also here", holder)
    yield LABEL.format("user net", facts.passt or NO_PASST)
    if report.api_version is not None:
        yield LABEL.format("KVM API", str(report.api_version))
    if report.classes:
        masked = f"; known deviations: {' '.join(report.deviations)}" if report.deviations else ""
        yield LABEL.format("class", " over ".join(report.classes) + masked)
    missing = [capability.name for capability in report.capabilities if capability.missing]
    if missing:
        yield LABEL.format("missing", ", ".join(missing))
    if report.features:
        words = (name if there else f"no {name}" for name, there in report.features)
        yield LABEL.format("CPUID", ", ".join(words))
    if report.probes:
        yield ""
        for probe in report.probes:
            yield from _probe(probe)
    yield ""
    yield f"examined in {report.seconds:.2f} seconds"


def _verdict(where: str, verdict: Verdict) -> Iterator[str]:
    yield LABEL.format(where, f"{'yes' if verdict.ok else 'no'}: {verdict.reason}")
    if verdict.next_step:
        yield LABEL.format("", f"next: {verdict.next_step}")


def _module(facts: Facts) -> str:
    if facts.module is None:
        return "none (neither kvm_intel nor kvm_amd is loaded)"
    shown = [module for module in facts.modules if module.name in ("kvm", facts.module.name)]
    values = (f"{name}={value}" for module in shown for name, value in module.parameters)
    return " ".join([facts.module.name, *values])


def _node(facts: Facts) -> str:
    node, user = facts.node, facts.user
    if not node.exists:
        return "not there"
    member = "in" if node.group in user.groups else "not in"
    return f"{node.mode} {node.owner}:{node.group}; {user.name} is {member} group {node.group}"


def _probe(probe: ProbeResult) -> Iterator[str]:
    needed = " (needed)" if probe.needed else ""
    yield f"{probe.number:9} {probe.answer!s:8} {probe.question}{needed}"
    if probe.answer is not Answer.YES:
        deviation = f" [{probe.masked}]" if probe.masked else ""
        yield f"{'':18} {probe.ending.describe()}{deviation}"
