"""The two examinations: the whole one, and the quick one that decides where a command runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from kvmhost.doctor import _constants as c
from kvmhost.doctor import judgement
from kvmhost.doctor.child import run_guests
from kvmhost.doctor.device import CallRefusedError, Device, LinuxKvm
from kvmhost.doctor.facts import Facts, gather
from kvmhost.doctor.probes import CPUID, DECISIVE, PROBES, Probe, ProbeResult
from kvmhost.doctor.report import Capability, Report, Verdict

# Seconds a probe Guest may take; it needs milliseconds, but a machine may be busy.
LIMIT = 5.0

NEEDED_CAPABILITIES = (
    "KVM_CAP_USER_MEMORY",
    "KVM_CAP_SET_TSS_ADDR",
    "KVM_CAP_EXT_CPUID",
    "KVM_CAP_IRQCHIP",
    "KVM_CAP_IRQ_ROUTING",
    "KVM_CAP_IRQFD",
    "KVM_CAP_USER_NMI",
    "KVM_CAP_IMMEDIATE_EXIT",
    "KVM_CAP_SET_IDENTITY_MAP_ADDR",
)
OTHER_CAPABILITIES = (
    "KVM_CAP_NR_VCPUS",
    "KVM_CAP_NR_MEMSLOTS",
    "KVM_CAP_READONLY_MEM",
    "KVM_CAP_VCPU_EVENTS",
    "KVM_CAP_XSAVE",
    "KVM_CAP_SYNC_REGS",
    "KVM_CAP_SIGNAL_MSI",
    "KVM_CAP_SET_GUEST_DEBUG2",
    "KVM_CAP_EXIT_ON_EMULATION_FAILURE",
    "KVM_CAP_BINARY_STATS_FD",
)

EAX, EBX, ECX, EDX = range(4)
# Intel SDM vol. 2, "CPUID"; AMD APM vol. 3, "Appendix E": leaf, subleaf, register, bit.
FEATURES = {
    "NX": (0x80000001, 0, EDX, 20),
    "PAE": (1, 0, EDX, 6),
    "PGE": (1, 0, EDX, 13),
    "SYSENTER": (1, 0, EDX, 11),
    "SYSCALL": (0x80000001, 0, EDX, 11),
    "FXSR": (1, 0, EDX, 24),
    "x2APIC": (1, 0, ECX, 21),
    "PCID": (1, 0, ECX, 17),
    "SMEP": (7, 0, EBX, 7),
    "SMAP": (7, 0, EBX, 20),
    "UMIP": (7, 0, ECX, 2),
}


class LabAnswer(NamedTuple):
    """What somebody who knows the lab says about it."""

    ok: bool
    reason: str
    next_step: str = ""


class _Found(NamedTuple):
    """What a KVM that opened had to say."""

    verdict: Verdict
    api_version: int | None = None
    capabilities: tuple[Capability, ...] = ()
    features: tuple[tuple[str, bool], ...] = ()
    probes: tuple[ProbeResult, ...] = ()


def examine(
    path: str = "/dev/kvm",
    *,
    fd: int | None = None,
    lab_check: Callable[[], tuple[bool, str, str]] | None = None,
    limit: float = LIMIT,
    device: Device | None = None,
    facts: Facts | None = None,
) -> Report:
    """Can this machine run Guests, natively or in the lab, and if not, what to change?

    `fd` is a /dev/kvm that is already open (it stays open). `lab_check` says whether the lab could
    run: (ok, reason, next step). `limit` is in seconds for each probe Guest. `device` and `facts`
    stand in for the KVM and the machine. Raises nothing of its own: what goes wrong is in the Report.

    >>> report = examine("/nowhere/kvm")
    >>> report.native.ok, report.exit_code
    (False, 3)
    """
    began = time.monotonic()
    known = gather(path) if facts is None else facts
    found = _ask(LinuxKvm(path, fd) if device is None else device, known, limit)
    codes = judgement.classes(found.probes, known) if found.probes else ()
    return Report(
        native=found.verdict,
        lab=None if lab_check is None else Verdict(*lab_check()),
        facts=known,
        api_version=found.api_version,
        capabilities=found.capabilities,
        features=found.features,
        probes=found.probes,
        classes=codes,
        deviations=judgement.deviations(found.probes, codes),
        seconds=time.monotonic() - began,
    )


def _ask(kvm: Device, facts: Facts, limit: float) -> _Found:
    """Open the KVM and ask it everything."""
    elsewhere = judgement.wrong_machine(facts.machine)
    if elsewhere is not None:
        return _Found(elsewhere)
    try:
        kvm.open()
    except OSError as error:
        return _Found(judgement.cannot_open(error, facts))
    try:
        version = kvm.api_version()
        if version != c.KVM_API_VERSION:
            return _Found(judgement.wrong_api(version), version)
        capabilities = _capabilities(kvm)
        results = _answers(kvm, PROBES, limit)
        verdict = judgement.from_capabilities(capabilities) or judgement.from_answers(results, facts)
        return _Found(verdict, version, capabilities, _features(kvm), results)
    except CallRefusedError as refused:
        return _Found(judgement.cannot_ask(refused.name, refused.number, facts))
    finally:
        kvm.close()


def _answers(kvm: Device, probes: tuple[Probe, ...], limit: float) -> tuple[ProbeResult, ...]:
    endings = run_guests(kvm, [probe.guest for probe in probes], limit)
    return tuple(probe.answer(ending) for probe, ending in zip(probes, endings, strict=True))


def _capabilities(kvm: Device) -> tuple[Capability, ...]:
    return tuple(
        Capability(name, kvm.capability(getattr(c, name)), name in NEEDED_CAPABILITIES)
        for name in NEEDED_CAPABILITIES + OTHER_CAPABILITIES
    )


def _features(kvm: Device) -> tuple[tuple[str, bool], ...]:
    leaves = kvm.cpuid()
    nothing = (0, 0, 0, 0)
    return tuple(
        (name, bool(leaves.get((leaf, subleaf), nothing)[register] >> bit & 1))
        for name, (leaf, subleaf, register, bit) in FEATURES.items()
    )


def native_verdict(
    path: str = "/dev/kvm",
    *,
    fd: int | None = None,
    limit: float = LIMIT,
    device: Device | None = None,
    facts: Facts | None = None,
) -> Verdict:
    """Can Guests run natively? The quick answer, for every command: one probe Guest when it is yes.

    That Guest has PAE paging, goes out to ring 1, and comes back by the fault that CPUID raises
    there. Only when it fails are its parts asked one by one. Parameters as for `examine`; raises
    nothing.

    >>> native_verdict("/nowhere/kvm").ok
    False
    """
    known = gather(path) if facts is None else facts
    elsewhere = judgement.wrong_machine(known.machine)
    if elsewhere is not None:
        return elsewhere
    kvm = LinuxKvm(path, fd) if device is None else device
    try:
        kvm.open()
    except OSError as error:
        return judgement.cannot_open(error, known)
    try:
        version = kvm.api_version()
        if version != c.KVM_API_VERSION:
            return judgement.wrong_api(version)
        results = _answers(kvm, (CPUID,), limit)
        if results[0].fatal:
            results = _answers(kvm, DECISIVE, limit)
        return judgement.from_answers(results, known)
    except CallRefusedError as refused:
        return judgement.cannot_ask(refused.name, refused.number, known)
    finally:
        kvm.close()
