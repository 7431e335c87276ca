"""The bytes of an instruction, one after the other: prefixes, ModR/M, displacements, immediates.

SDM vol. 2, "Instruction Format".  Only 32-bit code with 32-bit addresses is known.
"""

from __future__ import annotations

from dataclasses import dataclass

from .faults import GP, Fault, Unknown
from .machine import ALL, Machine

GPRS = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
SREGS = ("es", "cs", "ss", "ds", "fs", "gs")
OVERRIDES = {0x26: "es", 0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0x64: "fs", 0x65: "gs"}
OPERAND_SIZE, ADDRESS_SIZE, LOCK, REPNE, REP = 0x66, 0x67, 0xF0, 0xF2, 0xF3
LONGEST = 15


@dataclass(slots=True)
class Operand:
    """A register (memory False), or a place in a segment."""

    memory: bool
    register: int = 0
    segment: str = ""
    offset: int = 0


class Decoder:
    """One instruction of a machine.

    size is of its operands, 4 or 2; at is where the next byte is; last is the opcode's last byte.
    """

    def __init__(self, machine: Machine) -> None:
        code = machine.segs["cs"].descriptor
        if code is None or not code.big:
            raise Unknown("16-bit code")
        self.machine = machine
        self.start = self.at = machine.eip
        self.size = 4
        self.override = ""
        self.prefix = 0
        self.opcode = self.last = self._opcode()

    def _opcode(self) -> int:
        while True:
            byte = self.byte()
            if byte in OVERRIDES:
                self.override = OVERRIDES[byte]
            elif byte == OPERAND_SIZE:
                self.size = 2
            elif byte in (LOCK, REPNE, REP):
                self.prefix = byte
            elif byte == ADDRESS_SIZE:
                raise Unknown("16-bit addresses")
            else:
                return byte

    def byte(self) -> int:
        """The next byte; more than 15 are #GP(0)."""
        if self.at - self.start >= LONGEST:
            raise Fault(GP, 0)
        self.at += 1
        return self.machine.fetch(self.at - 1)

    def immediate(self, size: int) -> int:
        """Little-endian, unsigned."""
        return sum(self.byte() << 8 * place for place in range(size))

    def signed(self, size: int) -> int:
        """Little-endian, sign-extended to 32 bits, as an unsigned number.

        A displacement of a jump is one.
        """
        value = self.immediate(size)
        return (value - (1 << 8 * size) if value >> 8 * size - 1 else value) & ALL

    def modrm(self) -> tuple[int, Operand]:
        """The middle field, and the operand that the others name."""
        byte = self.byte()
        mode, middle, low = byte >> 6, byte >> 3 & 7, byte & 7
        if mode == 3:
            return middle, Operand(False, low)
        base, segment = self._base(mode, low)
        if mode:
            base += self.signed(1 if mode == 1 else 4)
        return middle, Operand(True, segment=self.override or segment, offset=base & ALL)

    def _base(self, mode: int, low: int) -> tuple[int, str]:
        if low == 4:
            sib = self.byte()
            scale, index, base = 1 << (sib >> 6), sib >> 3 & 7, sib & 7
            scaled = 0 if index == 4 else self._gpr(index) * scale
            if base == 5 and mode == 0:
                return scaled + self.signed(4), "ds"
            return scaled + self._gpr(base), "ss" if base in (4, 5) else "ds"
        if low == 5 and mode == 0:
            return self.signed(4), "ds"
        return self._gpr(low), "ss" if low == 5 else "ds"

    def _gpr(self, number: int) -> int:
        return self.machine.regs[GPRS[number]]

    def get(self, operand: Operand, size: int) -> int:
        """What an operand holds."""
        if operand.memory:
            return self.machine.read(operand.segment, operand.offset, size)
        if size == 1:
            value = self._gpr(operand.register & 3)
            return value >> (8 if operand.register & 4 else 0) & 0xFF
        return self._gpr(operand.register) & (1 << 8 * size) - 1

    def modified(self, operand: Operand, size: int) -> int:
        """What an operand holds that will be written next."""
        if operand.memory:
            return self.machine.read_to_write(operand.segment, operand.offset, size)
        return self.get(operand, size)

    def put(self, operand: Operand, size: int, value: int) -> None:
        """Change it."""
        value &= (1 << 8 * size) - 1
        if operand.memory:
            self.machine.write(operand.segment, operand.offset, size, value)
            return
        name = GPRS[operand.register & 3 if size == 1 else operand.register]
        shift = 8 if size == 1 and operand.register & 4 else 0
        mask = (1 << 8 * size) - 1 << shift
        self.machine.regs[name] = self.machine.regs[name] & ~mask & ALL | value << shift
