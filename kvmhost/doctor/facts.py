"""What can be read about this machine without asking KVM anything.

All of it comes from files, so all of it can be planted below another root: `gather(root=...)`.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

# Modules that take VMX or SVM for themselves, and what people call them.
HOLDERS = {
    "vboxdrv": "VirtualBox",
    "vmmon": "VMware",
    "prl_hypervisor": "Parallels",
    "haxm": "HAXM",
    "jailhouse": "Jailhouse",
}
# The modules that drive real silicon, and what numbers measured on them are labelled with.
BACKENDS = {"kvm_intel": "vmx", "kvm_amd": "svm"}
PARAMETERS = (
    "ept",
    "unrestricted_guest",
    "vnmi",
    "npt",
    "emulate_invalid_guest_state",
    "nested",
    "force_emulation_prefix",
    "enable_apicv",
    "avic",
)
CONTAINER_MARKS = (".dockerenv", "run/.containerenv", "run/systemd/container")


@dataclass(frozen=True, slots=True)
class Cpu:
    """Who made the CPU and what it offers; `hypervisor`: it is itself a virtual one."""

    vendor: str = ""
    model: str = ""
    hypervisor: bool = False
    vmx: bool = False
    svm: bool = False


@dataclass(frozen=True, slots=True)
class Module:
    """A loaded (or built-in) module and those of its parameters that matter here."""

    name: str
    parameters: tuple[tuple[str, str], ...] = ()

    def enabled(self, parameter: str) -> bool | None:
        """A boolean parameter, None if it is not known.

        >>> Module("kvm_amd", (("npt", "Y"),)).enabled("npt")
        True
        """
        value = dict(self.parameters).get(parameter)
        return None if value is None else value in ("Y", "1")


@dataclass(frozen=True, slots=True)
class Node:
    """The device node: its owner, its group, and its rights as `ls -l` shows them (+: an ACL)."""

    path: str = "/dev/kvm"
    mode: str = ""
    owner: str = ""
    group: str = ""

    @property
    def exists(self) -> bool:
        """There is such a file."""
        return bool(self.mode)


@dataclass(frozen=True, slots=True)
class User:
    """Who asks; `groups` are this process's, `entitled` those the user gets at the next log-in."""

    name: str = ""
    uid: int = 0
    groups: tuple[str, ...] = ()
    entitled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything about the machine that a verdict may want to name; passt: where that is, if it is."""

    kernel: str = ""
    machine: str = "x86_64"
    cpu: Cpu = Cpu()
    modules: tuple[Module, ...] = ()
    node: Node = Node()
    user: User = User()
    holders: tuple[str, ...] = ()
    container: bool = False
    passt: str = ""

    @property
    def module(self) -> Module | None:
        """The module that does KVM's work: Intel's, AMD's, or another kvm_*."""
        named = {module.name: module for module in self.modules}
        own = [named[name] for name in BACKENDS if name in named]
        others = [module for module in self.modules if module.name.startswith("kvm_")]
        return next(iter(own + others), None)


def gather(path: str = "/dev/kvm", root: Path = Path("/")) -> Facts:
    """Read the facts; what cannot be read stays empty.

    >>> gather().kernel == os.uname().release
    True
    """
    return Facts(
        kernel=os.uname().release,
        machine=os.uname().machine,
        cpu=_cpu(root),
        modules=_modules(root),
        node=_node(path),
        user=_user(),
        holders=_holders(root),
        container=any((root / mark).exists() for mark in CONTAINER_MARKS),
        passt=_program("passt"),
    )


def _program(name: str) -> str:
    """Where the shell would find a program, "" if nowhere."""
    places = (Path(folder) / name for folder in os.get_exec_path())
    return next((str(place) for place in places if os.access(place, os.X_OK) and place.is_file()), "")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _cpu(root: Path) -> Cpu:
    first = _text(root / "proc/cpuinfo").split("\n\n")[0]
    fields = {}
    for line in first.splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    flags = set(fields.get("flags", "").split())
    return Cpu(
        fields.get("vendor_id", ""),
        fields.get("model name", ""),
        "hypervisor" in flags,
        "vmx" in flags,
        "svm" in flags,
    )


def _modules(root: Path) -> tuple[Module, ...]:
    found = []
    for folder in sorted((root / "sys/module").glob("kvm*")):
        values = ((name, _text(folder / "parameters" / name).strip()) for name in PARAMETERS)
        found.append(Module(folder.name, tuple((name, value) for name, value in values if value)))
    return tuple(found)


def _holders(root: Path) -> tuple[str, ...]:
    loaded = {line.split()[0] for line in _text(root / "proc/modules").splitlines() if line}
    return tuple(
        f"{name} ({product})"
        for name, product in HOLDERS.items()
        if name in loaded or (root / "sys/module" / name / "initstate").exists()
    )


def _group_name(gid: int) -> str:
    with contextlib.suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)


def _user_name(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def _node(path: str) -> Node:
    try:
        found = os.stat(path)  # noqa: PTH116 - not a Path: it is shown as it was given
    except OSError:
        return Node(path)
    mode = stat.filemode(found.st_mode)
    with contextlib.suppress(OSError):
        os.getxattr(path, "system.posix_acl_access")
        mode += "+"
    return Node(path, mode, _user_name(found.st_uid), _group_name(found.st_gid))


def _user() -> User:
    uid = os.geteuid()
    name = _user_name(uid)
    now = tuple(sorted({_group_name(gid) for gid in (os.getegid(), *os.getgroups())}))
    try:
        later = os.getgrouplist(name, pwd.getpwuid(uid).pw_gid)
    except (KeyError, OSError):
        later = []
    return User(name, uid, now, tuple(sorted({_group_name(gid) for gid in later})))
