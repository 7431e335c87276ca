"""What can go wrong in the host room, and what to do about it.

Two things break, and they must never be confused.  A Guest that breaks a rule dies alone (GuestBroke), also
when it makes the Switcher fault.  A vCPU that does not come back, or an exit that cannot happen, means the
whole VM is lost (MachineBroken).  Each says what happened, why, and what
a person can try next; nobody ever sees a bare errno.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvmhost.host.hypercalls import Hypercall


class KvmhostError(Exception):
    """Base of every error of this project above the kvm room.

    message: one sentence, what happened.  cause: why, as far as it is known.  next_step: what to try.

    >>> error = KvmhostError("the image cannot be read", cause="it is empty", next_step="build it again")
    >>> print(error)
    the image cannot be read: it is empty. Next: build it again
    """

    def __init__(self, message: str, *, cause: str = "", next_step: str = "") -> None:
        super().__init__(message, cause, next_step)
        self.message = message
        self.cause = cause
        self.next_step = next_step

    def __str__(self) -> str:
        text = f"{self.message}: {self.cause}" if self.cause else self.message
        return f"{text}. Next: {self.next_step}" if self.next_step else text


class GuestBroke(KvmhostError):
    """A Guest broke a rule of the lguest ABI: it alone dies, its neighbours and the VM go on.

    reason: what the Guest did.  advice: what its author can do about it.  call: the hypercall it did it by,
    if it was one.

    >>> raise GuestBroke("page table entry 0x87 has bits a Guest may not set", "clear PAT")
    Traceback (most recent call last):
    ...
    kvmhost.host.errors.GuestBroke: page table entry 0x87 has bits a Guest may not set. Next: clear PAT
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason, next_step=advice)
        self.call: Hypercall | None = None

    @property
    def reason(self) -> str:
        return self.message

    @property
    def advice(self) -> str:
        return self.next_step


class BootError(KvmhostError):
    """A Guest cannot be started as its generation is: nothing of it was run."""


class MachineBroken(KvmhostError):
    """The VM as a whole cannot go on: it was reported, and is to be destroyed.

    log: what is known of its last moments, several lines, or "".
    """

    def __init__(self, message: str, *, cause: str = "", next_step: str = "", log: str = "") -> None:
        super().__init__(message, cause=cause, next_step=next_step)
        self.log = log


class HookError(KvmhostError):
    """A user's handler raised; the Guest was stopped at that trap and the exception is the cause."""


class AddressError(KvmhostError):
    """Our own code named VM-physical memory that does not exist. Never the Guest's doing."""


class _Closed:
    """Stands where memory was: any use is a clear error and no crash."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            # Python itself asks: copy, doctest and the like must hear the ordinary answer.
            raise AttributeError(name)
        raise KvmhostError("this Machine is closed", next_step="ask inside its with block")


CLOSED = _Closed()
