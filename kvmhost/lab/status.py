"""Whether there can be a lab on this machine, without starting one."""

from __future__ import annotations

from dataclasses import dataclass

from kvmhost.lab import provide, qemu
from kvmhost.lab.errors import LabError


@dataclass(frozen=True, slots=True)
class LabStatus:
    """What a lab needs and whether it is here.

    `qemu` is QEMU's path and `kernel` where the kernel came from, each None when missing.
    `missing` has a sentence for each thing that is, and `next_step` one line that, run as it
    stands, provides them all; it is empty when the lab is `ready`.
    """

    qemu: str | None
    kernel: str | None
    missing: tuple[str, ...]
    next_step: str

    @property
    def ready(self) -> bool:
        """True when a lab can be started."""
        return not self.missing


def check() -> LabStatus:
    """Looks whether QEMU and a kernel are here, unpacking a kernel that lies ready.

    Starts nothing and fetches nothing; raises nothing.

    >>> status = check()
    >>> status.ready == (status.next_step == "")
    True
    """
    program = qemu.find_qemu()
    problems = [] if program is not None else [qemu.qemu_missing()]
    kernel = None
    try:
        kernel = provide.find_kernel()
        if kernel is None:
            problems.append(provide.kernel_missing())
    except LabError as error:
        problems.append(error)
    return LabStatus(
        qemu=program,
        kernel=kernel.origin if kernel is not None else None,
        missing=tuple(problem.cause for problem in problems),
        next_step=" && ".join(problem.next_step for problem in problems),
    )
