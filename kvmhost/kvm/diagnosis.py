"""What to tell a person about an exit: the reason in words, with what the vCPU and its VM know about it.

An exit's own explanation knows its numbers alone.  Here the registers and the memory slots are looked at
too: an entry that failed is answered with the rules of entry_check that the state breaks, and an MMIO exit
with the slot it hit.
"""

from kvmhost.kvm.entry_check import check
from kvmhost.kvm.exits import Exit, ExitFailEntry, ExitInternalError, ExitMmio, ExitShutdown
from kvmhost.kvm.failures import Explanation
from kvmhost.kvm.vcpu import Vcpu

# Where a CPU starts after a reset: Intel SDM volume 3, "First Instruction Executed".
_RESET_RIP, _RESET_CS_BASE = 0xFFF0, 0xFFFF_0000


def diagnose(vcpu: Vcpu, stop: Exit) -> Explanation:
    """Cause and next step of the exit that `vcpu` just came back with; reads registers, changes nothing.

    >>> diagnose(vcpu, ExitMmio(address=0x1000, is_write=True, length=4, data=b"1234")).cause
    'the guest wrote 4 bytes at guest-physical 0x1000, where the VM has no memory'
    """
    if isinstance(stop, ExitFailEntry):
        return _failed_entry(vcpu, stop)
    if isinstance(stop, ExitInternalError):
        return stop.explanation
    if isinstance(stop, ExitShutdown):
        return _shutdown(vcpu, stop)
    if isinstance(stop, ExitMmio):
        return _mmio(vcpu, stop)
    return Explanation(f"{stop}", "nothing is wrong: handle it and run again")


def _failed_entry(vcpu: Vcpu, stop: ExitFailEntry) -> Explanation:
    cause, next_step = stop.explanation
    violations = check(
        vcpu.regs(),
        vcpu.sregs(),
        events=vcpu.events(),
        debugregs=vcpu.debugregs(),
        mp_state=vcpu.mp_state(),
    )
    if not violations:
        return Explanation(f"{cause}; the registers break no rule that entry_check knows", next_step)
    broken = "; ".join(map(str, violations))
    return Explanation(f"{cause}; the state breaks {broken}", "correct the state, and set it with check=True")


def was_reset(vcpu: Vcpu, stop: Exit) -> bool:
    """Whether `stop` is a shutdown that left the registers of a reset, as it does on an AMD CPU.

    >>> was_reset(vcpu, ExitMmio(address=0x1000, is_write=True, length=4, data=b"1234"))
    False
    """
    if not isinstance(stop, ExitShutdown):
        return False
    return (vcpu.regs().rip, vcpu.sregs().cs.base) == (_RESET_RIP, _RESET_CS_BASE)


def _shutdown(vcpu: Vcpu, stop: ExitShutdown) -> Explanation:
    regs, sregs = vcpu.regs(), vcpu.sregs()
    cause = "a triple fault: no handler could be reached, not even that of the double fault"
    if was_reset(vcpu, stop):
        return Explanation(
            f"{cause}; the registers are those after a reset, as an AMD CPU leaves them",
            "single-step towards it, or look at the state before the last run",
        )
    return Explanation(
        f"{cause}; at EIP {regs.rip:#x}, CR2 {sregs.cr2:#x}, CR3 {sregs.cr3:#x}, "
        f"GDT {sregs.gdt.base:#x} limit {sregs.gdt.limit:#x}, "
        f"IDT {sregs.idt.base:#x} limit {sregs.idt.limit:#x}",
        "look whether the IDT, its gates, the TSS and the stack are mapped and present",
    )


def _mmio(vcpu: Vcpu, stop: ExitMmio) -> Explanation:
    verb = "wrote" if stop.is_write else "read"
    did = f"the guest {verb} {stop.length} bytes at guest-physical {stop.address:#x}"
    for slot in vcpu.vm.slots:
        if slot.gpa <= stop.address < slot.gpa + slot.size:
            return Explanation(
                f"{did}, in slot {slot.number}, which is read-only",
                "make the slot writable, or emulate the write",
            )
    return Explanation(f"{did}, where the VM has no memory", "add a slot there, or emulate the device")
