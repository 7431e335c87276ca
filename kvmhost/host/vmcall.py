"""Kernels 2.6.30 to 2.6.33 call their Host by VMCALL, which never comes here.

So do their successors in one place, that of SEND_INTERRUPTS: it is assembler of its own, and was left as it
was when all others went back to `int $0x1F` (seen in 2.6.35; 3.12 has none).

Inside a VM that instruction is KVM's: it answers with an error in EAX and goes on,
at ring 1 as anywhere.  So it has to be an `int $0x1F` before it is executed, wherever
it is: in the kernel, in a kernel that unpacks itself, in a module loaded later.

Therefore a page of such a Guest's kernel is shown to the CPU either writable or
executable.  The first instruction fetch from a page faults, the page is searched,
and what was found is rewritten in the Guest's memory for good; a store to the
page faults too and takes the right to execute away again, so that new code is
searched like old.  Only code that stores into its own page has both at once, or
it would never get on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmhost.host.page_bits import FAULT_FETCH, FAULT_USER, NX, PAGE, RW

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest

VMCALL: Final = b"\x0f\x01\xc1"
INT_1F: Final = b"\xcd\x1f\x90"  # and a NOP, which keeps the length
LONGEST_INSTRUCTION: Final = 15
REST: Final = len(VMCALL) - 1


class VmcallRewriter:
    """Decides, for each page shown to the CPU, whether it may be executed."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def executable(self, address: int, error_code: int, entry: int) -> int:
        """The shadow entry for linear `address` after a fault with `error_code`, `entry` being the plain one.

        User space makes no hypercalls, and keeps its own rights.
        """
        if error_code & FAULT_USER:
            return entry
        if error_code & FAULT_FETCH:
            self.rewrite(address & -PAGE)
            return entry & ~RW
        if entry & RW and self._executed(address):
            self.rewrite(address & -PAGE)
            return entry
        return entry | NX

    def _executed(self, address: int) -> bool:
        """Whether the instruction at EIP lies in the page, with its first byte or its last."""
        eip = self.guest.frame.eip
        return address // PAGE in (eip // PAGE, (eip + LONGEST_INSTRUCTION - 1 & 0xFFFFFFFF) // PAGE)

    def rewrite(self, page: int) -> None:
        """Rewrite every VMCALL that has a byte in the page at linear `page`."""
        guest = self.guest
        before = guest.read_linear(page - REST, REST) if page else b""
        start = page - len(before)
        code = before + guest.read_linear(page, PAGE + REST)
        at = code.find(VMCALL)
        while at >= 0:
            guest.write_linear(start + at, INT_1F)
            at = code.find(VMCALL, at + len(VMCALL))
