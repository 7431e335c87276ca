"""`kvmhost run --shell`: stop at a trap that nobody handles, and look around in Python.

In the shell `trap`, `guest` and `machine` are the live objects: registers and memory can be read and changed.
`resume()` lets the Guest go on with what was changed; the end of input (Ctrl-D) lets the Host do what it
would have done, which is the end of the Guest.  trap.kill() ends it with another reason.  Ctrl-C means the
line that is being typed or run, as in every Python shell, and not the Guest, which stands still.
"""

from __future__ import annotations

import code
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest
    from kvmhost.host.guest_trap import GuestTrap
    from kvmhost.host.machine import Machine

BANNER = """\
{guest}: {reason}
trap, guest and machine are here; resume() goes on with what you changed, Ctrl-D lets the Guest end."""


class Resume(Exception):
    """The person said resume()."""


class Shell(code.InteractiveConsole):
    """An interactive console that resume() and the end of the Guest can leave."""

    def showtraceback(self) -> None:
        from kvmhost.host.errors import GuestBroke

        error = sys.exc_info()[1]
        if isinstance(error, Resume | GuestBroke):
            raise error
        super().showtraceback()


@contextmanager
def own_interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt here, though a Machine that runs means something else by it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def open_shell_for(guest: Guest, machine: Machine) -> None:
    """From now on an unhandled trap of this Guest opens a shell."""

    def unhandled(trap: GuestTrap, reason: str) -> bool:
        return converse({"trap": trap, "guest": guest, "machine": machine}, guest.name, reason)

    guest.unhandled = unhandled


def converse(names: dict[str, Any], guest: str, reason: str) -> bool:
    """Talk until resume() (True) or the end of input (False).  Raises GuestBroke for trap.kill()."""

    def resume() -> None:
        raise Resume

    if sys.stdin.isatty():
        try:
            import readline
        except ImportError:
            pass  # a shell without history is a shell
        else:
            readline.parse_and_bind("tab: complete")
    try:
        with own_interrupts():
            Shell({**names, "resume": resume}).interact(BANNER.format(guest=guest, reason=reason), exitmsg="")
    except Resume:
        return True
    except SystemExit:
        pass  # exit() and quit() mean what Ctrl-D means
    return False
