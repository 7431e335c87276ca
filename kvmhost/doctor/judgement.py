"""From facts and answers to a verdict: why no Guest can run here, and what to change."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from kvmhost.doctor import _constants as c
from kvmhost.doctor import advice, probes
from kvmhost.doctor.advice import Advice
from kvmhost.doctor.ending import End
from kvmhost.doctor.facts import BACKENDS, Facts
from kvmhost.doctor.probes import Answer, ProbeResult
from kvmhost.doctor.report import Capability, Verdict

X86 = ("x86_64", "amd64", "i686", "i586", "i486", "i386")
# What TCG's silicon gets wrong and no probe asks about, and what KVM's single step always does.
TCG_UNASKED = ("DV-03", "DV-04", "DV-06")
SINGLE_STEP = "DV-12"
NESTED_STEP = (
    "turn on nested virtualisation on the machine beneath this one (kvm_intel or kvm_amd with nested=1, "
    "and a CPU model that passes VMX or SVM on)"
)
KERNEL_LOG = "read the kernel log (dmesg): KVM did something that it never should"
FIRMWARE_STEP = "enable VT-x (Intel) or SVM (AMD) in the firmware setup"


def wrong_machine(machine: str) -> Verdict | None:
    """The verdict on a machine of another architecture, else None."""
    if machine in X86:
        return None
    return Verdict(False, f"{machine} is not an x86", "use an x86 machine")


def cannot_open(error: OSError, facts: Facts) -> Verdict:
    """The verdict when /dev/kvm does not open, by what is known about this machine."""
    number = error.errno or 0
    row = advice.opening(number, facts.node.path)
    if number in (errno.ENOENT, errno.ENOTDIR):
        row = _no_node(facts)
        if facts.holders:
            # From Linux 6.12 on, the module itself may not load while another owns VMX or SVM.
            who = " and ".join(facts.holders)
            row = Advice(f"{row.reason}; {who} is here and may own the CPU's virtualisation", f"stop {who}")
    elif number == errno.EACCES:
        row = _no_permission(facts)
    elif number in (errno.ENODEV, errno.ENXIO):
        row = Advice(row.reason, NESTED_STEP if facts.cpu.hypervisor else FIRMWARE_STEP)
    return Verdict(False, row.reason, row.next_step)


def _no_node(facts: Facts) -> Advice:
    reason = f"there is no {facts.node.path}"
    cpu = facts.cpu
    if facts.container:
        return Advice(f"{reason} in this container", "start it with --device /dev/kvm")
    if not (cpu.vmx or cpu.svm) and facts.module is None:
        if cpu.hypervisor:
            return Advice(f"{reason}: this virtual machine's CPU has neither VMX nor SVM", NESTED_STEP)
        return Advice(f"{reason}: the CPU shows neither VMX nor SVM", FIRMWARE_STEP)
    if facts.module is None:
        name = "kvm_intel" if cpu.vmx else "kvm_amd"
        return Advice(f"{reason}: {name} is not loaded", f"sudo modprobe {name}")
    return Advice(
        f"{reason}, although {facts.module.name} is loaded",
        "restart udev, or: sudo mknod /dev/kvm c 10 232",
    )


def _no_permission(facts: Facts) -> Advice:
    node, user = facts.node, facts.user
    what = f"{user.name} may not open {node.path}"
    if not node.exists:
        return Advice(what, "run kvmhost with sudo")
    reason = f"{what} ({node.mode} {node.owner}:{node.group})"
    if node.group in user.groups:
        return Advice(f"{reason}, though in group {node.group}", f"sudo chmod g+rw {node.path}")
    if node.group in user.entitled:
        return Advice(
            f"{reason}: group {node.group} counts from the next log-in on",
            f"log in again, or: newgrp {node.group}",
        )
    if node.group in ("root", "0"):
        return Advice(f"{reason}: only root may", "run kvmhost with sudo")
    return Advice(
        f"{reason}: {user.name} is not in group {node.group}",
        f"sudo usermod -aG {node.group} {user.name}, then log in again; or run kvmhost with sudo",
    )


def wrong_api(version: int) -> Verdict:
    """The verdict when what opened is not the KVM API that has been stable since 2007."""
    return Verdict(
        False,
        f"KVM_GET_API_VERSION says {version}, not {c.KVM_API_VERSION}",
        "use Linux 5.10 or later, and the real /dev/kvm",
    )


def cannot_ask(name: str, number: int, facts: Facts) -> Verdict:
    """The verdict when a KVM call fails."""
    row = advice.calling(name, number)
    if number == errno.EBUSY and facts.holders:
        who = " and ".join(facts.holders)
        return Verdict(False, f"{row.reason}: {who}", f"stop {who}, and unload that module")
    return Verdict(False, row.reason, row.next_step)


def from_answers(results: Sequence[ProbeResult], facts: Facts) -> Verdict:
    """The verdict on a KVM that answers, by what its Guests did."""
    name = facts.module.name if facts.module else "KVM"
    for result in results:
        if result.fatal and result.ending.end is End.REFUSED:
            return cannot_ask(result.ending.where, result.ending.code, facts)
    fatal = [result for result in results if result.fatal]
    if not fatal:
        return Verdict(True, f"{name} runs Guests at ring 1", backend=BACKENDS.get(name, name))
    first = fatal[0]
    reason = f"{name} cannot do what every Guest needs: {first.question} ({first.number})"
    if len(fatal) > 1:
        reason += f" and {len(fatal) - 1} more"
    reason += f"; {first.ending.describe()}"
    step = KERNEL_LOG if first.ending.end is End.LOST else _cannot_run_step(facts)
    return Verdict(False, reason, step)


def _cannot_run_step(facts: Facts) -> str:
    if facts.module is not None and facts.module.name not in BACKENDS:
        step = f"{facts.module.name} is a software KVM: use a machine with kvm_intel or kvm_amd"
        return step + (", or nested virtualisation beneath this one" if facts.cpu.hypervisor else "")
    if facts.cpu.hypervisor:
        return "update the hypervisor and the kernel beneath this virtual machine, or use another machine"
    return "update the kernel, or use another machine"


def from_capabilities(capabilities: Sequence[Capability]) -> Verdict | None:
    """The verdict when something needed is not there at all, else None."""
    missing = [capability.name for capability in capabilities if capability.missing]
    if not missing:
        return None
    return Verdict(False, f"this KVM lacks {', '.join(missing)}", "use Linux 5.10 or later")


def classes(results: Sequence[ProbeResult], facts: Facts) -> tuple[str, ...]:
    """The catalogue's codes for this environment; none when no Guest ran at all."""
    answers = {result.number: result for result in results}
    if all(result.answer is not Answer.YES for result in results):
        return ()
    paging = (answers[probe.number].answer for probe in (probes.TWO_LEVEL, probes.PAE))
    if Answer.YES not in paging:
        return ("EMU",)
    silicon = (answers[probe.number].answer for probe in (probes.LIMIT, probes.RESUME_FLAG))
    tcg = set(silicon) == {Answer.NO}
    beneath = ("TCG",) if tcg else ("NST",) if facts.cpu.hypervisor else ()
    return (*_module_class(facts), *beneath)


def _module_class(facts: Facts) -> tuple[str, ...]:
    module = facts.module
    if module is not None and module.name == "kvm_intel":
        if module.enabled("ept") is False:
            return ("IS",)
        return ("IN",) if module.enabled("unrestricted_guest") is False else ("IU",)
    if module is not None and module.name == "kvm_amd":
        return ("AS",) if module.enabled("npt") is False else ("AN",)
    return ()


def deviations(results: Sequence[ProbeResult], codes: Sequence[str]) -> tuple[str, ...]:
    """The ids of known deviations that a conformance run masks here."""
    found = {result.masked for result in results if result.masked}
    if codes:
        found.add(SINGLE_STEP)
    if "TCG" in codes:
        found.update(TCG_UNASKED)
    return tuple(sorted(found))
