"""The two exits that need explaining: the CPU refused the guest's state, or KVM gave up on it.

The numbers are the hardware's: VMX's exit reasons and VM-instruction errors (Intel SDM volume 3, "VMX Basic
Exit Reasons" and "VM-Instruction Error Numbers"), SVM's VMEXIT_INVALID (AMD APM volume 2, "Canonicalization
and Consistency Checks").
"""

from typing import NamedTuple

# Bit 31 of a VMX exit reason: the entry failed.
VM_ENTRY_FAILURE = 1 << 31


class Explanation(NamedTuple):
    """What happened and what to do, in words.

    >>> Explanation("it rained", "take an umbrella").next_step
    'take an umbrella'
    """

    cause: str
    next_step: str


_CHECK = "compare the registers with entry_check: it names the rules they break"

_VMX_ENTRY = {
    33: Explanation("VM entry failed: invalid guest state", _CHECK),
    34: Explanation(
        "VM entry failed: an MSR of the entry list could not be loaded", "look at the MSRs that were set"
    ),
    41: Explanation("VM entry failed: a machine check came during entry", "look at the host's kernel log"),
}
_VMX_INSTRUCTION = {
    7: Explanation(
        "VM entry refused: invalid control field", "a defect of KVM or of the hypervisor below it"
    ),
    8: Explanation(
        "VM entry refused: invalid host-state field", "a defect of KVM or of the hypervisor below it"
    ),
}
_SVM_INVALID = Explanation(
    "VMRUN refused the guest state (VMEXIT_INVALID): CR0.NW without CD, reserved bits of CR0, CR3, CR4, DR6, "
    "DR7 or EFER, or long mode without PAE or PE",
    _CHECK,
)


def entry_failure(reason: int) -> Explanation:
    """Words for the hardware_entry_failure_reason of KVM_EXIT_FAIL_ENTRY.

    >>> entry_failure(7).cause
    'VM entry refused: invalid control field (0x7)'
    >>> entry_failure(0xFFFFFFFFFFFFFFFF).cause[:24]
    'VMRUN refused the guest '
    """
    if reason in (0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF):
        known = _SVM_INVALID
    elif reason & VM_ENTRY_FAILURE:
        known = _VMX_ENTRY.get(reason & 0xFFFF) or Explanation(
            "VM entry failed for a reason unknown here", _CHECK
        )
    else:
        known = _VMX_INSTRUCTION.get(reason) or Explanation(
            "the VM-entry instruction itself failed", "a defect of KVM or of the hypervisor below it"
        )
    return Explanation(f"{known.cause} ({reason:#x})", known.next_step)


def internal_error(suberror: int, data: tuple[int, ...], instruction: bytes) -> Explanation:
    """Words for KVM_EXIT_INTERNAL_ERROR.

    >>> internal_error(3, (0x80000b0e, 48), b"").cause
    'an exit came while event 14 was being delivered (vectoring info 0x80000b0e, exit reason 0x30)'
    """
    if suberror == 1:
        return _emulation(instruction)
    if suberror == 2:
        return Explanation(
            "KVM met two exceptions at once", "look for a fault inside the guest's own fault handling"
        )
    if suberror == 3:
        return _delivery(data)
    if suberror == 4:
        told = f" {data[0]:#x}" if data else ""
        return Explanation(
            f"the hardware left the guest for a reason{told} that KVM does not handle", "use a newer kernel"
        )
    return Explanation(f"KVM gave up with suberror {suberror}, unknown here", "look at the host's kernel log")


def _emulation(instruction: bytes) -> Explanation:
    shown = f" that begins {instruction.hex(' ')}" if instruction else ""
    cause = f"KVM's emulator cannot execute the instruction{shown}"
    if instruction.startswith(b"\xcf"):
        return Explanation(
            f"{cause}: IRET in protected mode, which only the CPU itself can do",
            "this KVM emulates instead of using VMX or SVM: use another host, or the lab",
        )
    return Explanation(
        cause,
        "on an Intel CPU without unrestricted guest, compare the registers with entry_check; "
        "elsewhere look whether the guest runs from memory that no slot backs",
    )


def _delivery(data: tuple[int, ...]) -> Explanation:
    told = ""
    if len(data) >= 2:
        told = f" (vectoring info {data[0]:#x}, exit reason {data[1]:#x})"
    vector = f"event {data[0] & 0xFF}" if data else "an event"
    return Explanation(
        f"an exit came while {vector} was being delivered{told}",
        "look whether the IDT, GDT, TSS or the ring-0 stack lies in guest-physical memory that no slot backs",
    )
