"""How a command ends when it does not end well: exit codes, and what is printed with them.

An error of this project carries what happened, why, and what to try next; all three are printed and a
traceback never is, for it tells the person nothing.  Anything else that arrives here is a fault of ours.
It says so and how to report it; KVMHOST_DEBUG=1 shows the traceback.
"""

from __future__ import annotations

import errno
import os
import sys

DONE = 0
GUEST_FAILED = 1
USAGE = 2
HOST_CANNOT = 3
OUR_FAULT = 4
INTERRUPTED = 130
BROKEN_PIPE = 141

EXIT_CODES = """\
exit codes:
  0    done                              3    this host cannot: see kvmhost doctor
  1    the Guest failed                  4    a fault of kvmhost itself
  2    the command line is wrong         130  ended by Ctrl-C or Ctrl-A x
                                         143  ended by SIGTERM (129 by SIGHUP, 131 by SIGQUIT)
                                         141  nobody reads the output any more"""

#: How much of a lab's last words is shown when it died.
LOG_LINES = 40

REPORTS = "please report this with the command line and the output of `kvmhost doctor`"


class UsageError(Exception):
    """The command line asks for something that does not exist or makes no sense.

    >>> UsageError("no such Guest", next_step="see ls").next_step
    'see ls'
    """

    def __init__(self, message: str, *, cause: str = "", next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.next_step = next_step


def say(text: str) -> None:
    """One line to the person: on stderr, for stdout belongs to the Guest."""
    print(f"kvmhost: {text}", file=sys.stderr, flush=True)


def report(error: Exception) -> int:
    """Print an error the way its kind deserves and return the exit code."""
    if os.environ.get("KVMHOST_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    if isinstance(error, ImportError) and error.name == "kvmhost._native":
        say("the compiled part of kvmhost cannot be loaded")
        print(f"  why: {error}\n  what to do: install kvmhost again, with this Python", file=sys.stderr)
        return OUR_FAULT
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        say(f"cannot write: {error.strerror}")
        print("  what to do: make room where the output goes, or send it elsewhere", file=sys.stderr)
        return HOST_CANNOT
    if not hasattr(error, "next_step"):
        say(f"this is a fault of kvmhost itself: {type(error).__name__}: {error}")
        say(f"{REPORTS}; KVMHOST_DEBUG=1 shows where it happened")
        return OUR_FAULT
    message, cause = str(getattr(error, "message", "") or error.args[0]), getattr(error, "cause", "")
    for line in getattr(error, "log", "").rstrip().splitlines()[-LOG_LINES:]:
        print(f"  | {line}", file=sys.stderr)
    say(message)
    for title, text in (("why", cause if cause != message else ""), ("what to do", error.next_step)):
        if text:
            print(f"  {title}: {text}", file=sys.stderr)
    return exit_code(error)


def exit_code(error: Exception) -> int:
    """The exit code of an error of ours, told by the names of its classes: nothing is imported for it."""
    if getattr(error, "usage", False):
        return USAGE
    names = {base.__name__ for base in type(error).__mro__}
    for name, code in CODES.items():
        if name in names:
            return code
    return HOST_CANNOT


#: The first class of an error that stands here decides.
CODES = {
    "UsageError": USAGE,
    "MemorySizeError": USAGE,
    "AbiError": USAGE,
    "SwitcherError": USAGE,
    "GuestBroke": GUEST_FAILED,
    "ImageError": GUEST_FAILED,
    "MachineBroken": OUR_FAULT,
    "WorkerBroke": OUR_FAULT,
    "AddressError": OUR_FAULT,
    "HookError": GUEST_FAILED,
}
