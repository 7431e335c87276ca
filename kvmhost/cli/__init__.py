"""The command line: one file a command, and in each of them parsing and printing only.

    kvmhost run GUEST ...      boot Guests, natively or in the lab
    kvmhost bench              what world switches, traps and exits cost here
    kvmhost doctor             can this machine run Guests, and if not, what to change
    kvmhost conform            does this CPU, and its KVM, switch worlds as the manuals say
    kvmhost lab run -- ...     any command, on a machine with a real KVM inside QEMU
    kvmhost journey            the project's commentary in reading order, with the code beside it

How a command ends is its exit code, listed in `kvmhost.cli.failures`.  Nothing heavy is imported before the
words of the command line are understood: `kvmhost --help` must not wait for a disassembler.
"""

from kvmhost.cli.entry import main

__all__ = ["main"]
