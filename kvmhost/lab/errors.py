"""What goes wrong with a lab, always with what to do about it."""

from __future__ import annotations


class LabError(Exception):
    """The lab cannot do what was asked.

    `cause` says what happened in one sentence, `next_step` what to do about it: where it
    can be, a line to run as it stands. `log` is what the lab's kernel and QEMU printed
    last, or empty.

    >>> error = LabError("QEMU is not installed", next_step="apt-get install qemu-system-x86")
    >>> print(error)
    QEMU is not installed
    next step: apt-get install qemu-system-x86
    """

    def __init__(self, cause: str, *, next_step: str, log: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.next_step = next_step
        self.log = log

    def __str__(self) -> str:
        tail = self.log.rstrip().splitlines()[-40:]
        shown = ["the lab's last words:", *(f"  {line}" for line in tail)] if tail else []
        return "\n".join([*shown, self.cause, f"next step: {self.next_step}"])


class LabTimeout(LabError):
    """The command did not end within the time it was given; the lab has been switched off."""
