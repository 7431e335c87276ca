"""Records of the rarer registers: x87 and SSE, and the debug registers."""

from dataclasses import dataclass
from typing import Any, Self

_SIMPLE = ("fcw", "fsw", "ftwx", "last_opcode", "last_ip", "last_dp")


@dataclass(frozen=True, slots=True)
class Fpu:
    """x87 and XMM registers (struct kvm_fpu): eight x87 and sixteen XMM registers of 16 bytes each.

    The structure has a place for MXCSR, but KVM neither reads nor writes it: that travels in Vcpu.xsave
    alone. ftwx is the abridged tag word of FXSAVE: a 1 for each register in use.

    >>> from dataclasses import replace
    >>> vcpu.set_fpu(replace(vcpu.fpu(), fcw=0x27F))
    >>> hex(vcpu.fpu().fcw)
    '0x27f'
    """

    fpr: tuple[bytes, ...]
    xmm: tuple[bytes, ...]
    fcw: int
    fsw: int
    ftwx: int
    last_opcode: int
    last_ip: int
    last_dp: int

    @classmethod
    def _read(cls, c: Any) -> Self:
        """From a struct kvm_fpu."""
        fpr, xmm = (tuple(bytes(register) for register in file) for file in (c.fpr, c.xmm))
        return cls(fpr, xmm, *[getattr(c, name) for name in _SIMPLE])

    def _write(self, c: Any) -> None:
        """Into a struct kvm_fpu."""
        for file, values in ((c.fpr, self.fpr), (c.xmm, self.xmm)):
            for place, value in enumerate(values):
                file[place] = list(value)
        for name in _SIMPLE:
            setattr(c, name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class DebugRegs:
    """The guest's own debug registers: db is DR0 to DR3.

    >>> DebugRegs(db=(0x1000, 0, 0, 0), dr7=0x402).db[0]
    4096
    """

    db: tuple[int, int, int, int] = (0, 0, 0, 0)
    dr6: int = 0xFFFF0FF0
    dr7: int = 0x400

    @classmethod
    def _read(cls, c: Any) -> Self:
        """From a struct kvm_debugregs."""
        return cls((c.db[0], c.db[1], c.db[2], c.db[3]), c.dr6, c.dr7)

    def _write(self, c: Any) -> None:
        """Into a struct kvm_debugregs."""
        c.db, c.dr6, c.dr7 = self.db, self.dr6, self.dr7
