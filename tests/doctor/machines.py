"""Machines and KVMs that a test cannot have at hand: each behaves as the catalogue says one does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from kvmhost.doctor import _constants as c
from kvmhost.doctor.ending import End, Ending
from kvmhost.doctor.facts import Cpu, Facts, Module, Node, User
from kvmhost.doctor.probes import PROBES
from kvmhost.doctor.world import ProbeGuest, Start

AMD = Facts(
    kernel="6.1.0",
    cpu=Cpu("AuthenticAMD", "AMD EPYC", svm=True),
    modules=(Module("kvm", ()), Module("kvm_amd", (("npt", "Y"),))),
    node=Node(mode="crw-rw----", owner="root", group="kvm"),
    user=User("ada", 1000, ("ada", "kvm"), ("ada", "kvm")),
)
INTEL = replace(
    AMD,
    cpu=Cpu("GenuineIntel", "Intel Xeon", vmx=True),
    modules=(Module("kvm", ()), Module("kvm_intel", (("ept", "Y"), ("unrestricted_guest", "Y")))),
)
SOFTWARE = replace(
    AMD, cpu=Cpu("AuthenticAMD", "AMD EPYC", hypervisor=True), modules=(Module("kvm"), Module("kvm_pvm"))
)
LAB = replace(AMD, cpu=Cpu("AuthenticAMD", "QEMU Virtual CPU", hypervisor=True, svm=True))
NO_MODULE = replace(AMD, cpu=Cpu("AuthenticAMD", "AMD EPYC"), modules=(), node=Node())


def said(*values: int) -> Ending:
    """A Guest that came to its end."""
    return Ending(End.DONE, values=values)


def trapped(vector: int, **words: int) -> Ending:
    """A Guest that ended in a trap at ring 0, with all other words zero unless given."""
    names = ("vector", "error", "eip", "cs", "eflags", "esp", "ss", "cr2")
    known = {"vector": vector, "cs": c.LGUEST_CS, **words}
    return Ending(End.DONE, frame=tuple(known.get(name, 0) for name in names))


def in_ring1(vector: int, **words: int) -> Ending:
    """A Guest that ended in a trap at ring 1."""
    return trapped(vector, **{"cs": c.GUEST_CS, "ss": c.GUEST_DS, "esp": c.PROBE_RING1_TOP, **words})


SYMBOL = c.PROBE_SYMBOLS
AT_CPUID = in_ring1(13, eip=SYMBOL["cpuid_at_ring1"], eflags=0x10002)
# How each Guest ends on silicon that does what the manuals say (Intel SDM vol. 3).
BY_THE_MANUAL: Mapping[str, Ending] = {
    "PROBE-1": Ending(End.HALTED, values=(0xD09E,)),
    "PROBE-2a": said(0x1A57C0DE),
    "PROBE-2b": said(0x1A57C0DE),
    "PROBE-2c": said(0x1A57C0DE),
    "PROBE-2d": said(0x1A57C0DE),
    "PROBE-3": said(0xD09E),
    "PROBE-4": in_ring1(0x1F, eip=SYMBOL["ring1_called"], eflags=0x2),
    "PROBE-5": said(0x89, 0x8B),
    "PROBE-6": trapped(13, eip=SYMBOL["limit_read"], eflags=0x10046),
    "PROBE-7": trapped(0, eip=SYMBOL["fault_divide"], eflags=0x10046),
    "PROBE-8": said(0x1A57C0DE, 0x1A57C0DE, 0x2B68D1EF),
    "PROBE-9": trapped(2, eflags=0x2),
    "PROBE-11": said(0x58),
    "PROBE-14": Ending(End.SHUTDOWN, values=(0xD09E,), esi=0xD09E),
    "CPUID": replace(AT_CPUID, values=(0x1A57C0DE, 0x756E6547)),
    "KICK": in_ring1(0xF0, eflags=0x202),
    "WP": in_ring1(14, error=3, eip=SYMBOL["write_protected"], cr2=0xA000, eflags=0x10046),
    "XD": in_ring1(14, error=0x11, eip=0xB000, cr2=0xB000, eflags=0x10002),
}
# What the lab's silicon gets wrong: conformance 0.5, DV-01, DV-02, DV-05, DV-10.
IN_TCG: Mapping[str, Ending] = {
    **BY_THE_MANUAL,
    "PROBE-6": said(0xD09E),
    "PROBE-7": trapped(0, eip=SYMBOL["fault_divide"], eflags=0x46),
    "PROBE-8": said(0x1A57C0DE, 0x2B68D1EF, 0x2B68D1EF),
    "PROBE-14": Ending(End.SHUTDOWN, values=(0xD09E,)),
}


def _software(guest: ProbeGuest) -> Ending:
    """DV-08 and DV-09: no paging outside long mode, and an emulator without IRET."""
    if guest.start is not Start.UNPAGED:
        return Ending(End.SHUTDOWN)
    if guest.entry == "probe_paging_on":
        return trapped(13, eip=SYMBOL["probe_paging_on"] + 14, eflags=0x10082)
    if guest.entry == "probe_iret":
        return Ending(End.INTERNAL_ERROR, code=1, where="cf", eip=SYMBOL["probe_iret"] + 7)
    return BY_THE_MANUAL["PROBE-1"]


def behaving(endings: Mapping[str, Ending]) -> Callable[[ProbeGuest], Ending]:
    """A behaviour that gives each probe's Guest the ending of that probe."""
    by_guest = {probe.guest: endings[probe.number] for probe in PROBES}
    return by_guest.__getitem__


class FakeKvm:
    """A Device with a given behaviour; by default the best of all KVMs."""

    def __init__(
        self,
        behaviour: Callable[[ProbeGuest], Ending] | None = None,
        *,
        opening: OSError | None = None,
        version: int = 12,
        lacking: tuple[str, ...] = (),
    ) -> None:
        self.behaviour = behaviour or behaving(BY_THE_MANUAL)
        self.opening = opening
        self.version = version
        self.lacking = tuple(getattr(c, name) for name in lacking)
        self.opened = 0

    def open(self) -> None:
        if self.opening is not None:
            raise self.opening
        self.opened += 1

    def close(self) -> None:
        self.opened -= 1

    def api_version(self) -> int:
        return self.version

    def capability(self, number: int) -> int:
        return 0 if number in self.lacking else 1

    def cpuid(self) -> dict[tuple[int, int], tuple[int, int, int, int]]:
        return {(1, 0): (0, 0, 1 << 21, 1 << 6), (0x80000001, 0): (0, 0, 0, 1 << 20)}

    def run(self, guest: ProbeGuest, limit: float) -> Ending:
        return self.behaviour(guest)


def software_kvm() -> FakeKvm:
    """kvm_pvm, or another that emulates."""
    return FakeKvm(_software)
