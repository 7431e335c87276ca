"""Rules for everything but segments: control and debug registers, MSRs, RIP and RFLAGS, pending events,
PDPTEs.

Written from the Intel SDM, volume 3, chapter "VM Entries", "Checks on the Guest State Area"; the manual's
own section titles are the headings of the table.  A few rows are AMD's (APM volume 2, "Canonicalization and
Consistency Checks") or KVM's; they say so.
"""

from kvmhost.kvm.entry_rule import (
    CR0_CD,
    CR0_NE,
    CR0_NW,
    CR0_PE,
    CR0_WP,
    CR4_CET,
    CR4_PAE,
    CR4_PCIDE,
    EFER_LMA,
    EFER_LME,
    FLAG_IF,
    EntryState,
    Rule,
)
from kvmhost.kvm.events import MpState, Shadow

_CONTROL = "Checks on Guest Control Registers, Debug Registers, and MSRs"
_TABLES = "Checks on Guest Descriptor-Table Registers"
_RIP = "Checks on Guest RIP, RFLAGS, and SSP"
_OTHER = "Checks on Guest Non-Register State"
_PDPTE = "Checks on Guest Page-Directory-Pointer-Table Entries"
_EVENT = "VM-Entry Control Fields"
_AMD = "AMD APM: Canonicalization and Consistency Checks"

# Bits 15, 19 (key locker) and 26, 29 to 31, 33 and up are reserved or belong to no guest of ours; 13 is VMXE.
_CR4_KNOWN = sum(1 << bit for bit in (*range(13), 14, 16, 17, 18, *range(20, 26), 27, 28, 32))
# SCE, LME, LMA, NXE; AMD's SVME, LMSLE, FFXSR, TCE, and AUTOIBRS.
_EFER_KNOWN = sum(1 << bit for bit in (0, 8, 10, 11, 12, 13, 14, 15, 21))
_RFLAGS_ZERO = ~0x3FFFFF & (1 << 64) - 1 | 1 << 15 | 1 << 5 | 1 << 3
_SYSENTER = (0x175, 0x176)
_PAT = 0x277
_PAT_TYPES = (0, 1, 4, 5, 6, 7)


def _lma_is_wrong(state: EntryState) -> bool:
    lma, lme = bool(state.sregs.efer & EFER_LMA), bool(state.sregs.efer & EFER_LME)
    return lma != lme if state.paging else lma


def _rip_is_wrong(state: EntryState) -> bool:
    if state.long_mode and state.sregs.cs.l:
        return not state.canonical(state.regs.rip)
    return state.regs.rip >> 32 != 0


def _pat_is_wrong(state: EntryState) -> bool:
    pat = state.msrs.get(_PAT, 0)
    return any(pat >> 8 * byte & 0xFF not in _PAT_TYPES for byte in range(8))


def _pdptes_are_wrong(state: EntryState) -> bool:
    if not state.paging or state.long_mode or not state.sregs.cr4 & CR4_PAE:
        return False
    reserved = 0b110 | 0b1_1110_0000 | ~((1 << state.physical_bits) - 1)
    return any(entry & 1 and entry & reserved for entry in state.pdptes or ())


RULES: tuple[Rule, ...] = (
    Rule("cr0.high", _CONTROL, "bits 63:32 of CR0 are 0", "sregs.cr0", lambda s: s.sregs.cr0 >> 32 != 0),
    Rule(
        "cr0.ne",
        _CONTROL,
        "CR0.NE is 1 in VMX operation (IA32_VMX_CR0_FIXED0)",
        "sregs.cr0",
        lambda s: not s.sregs.cr0 & CR0_NE,
    ),
    Rule(
        "cr0.pg",
        _CONTROL,
        "CR0.PG is 1 on CPUs without unrestricted guest (IA32_VMX_CR0_FIXED0); KVM runs anything else on "
        "tables of its own, as VM86 or in its emulator",
        "sregs.cr0",
        lambda s: not s.unrestricted and not s.paging,
        kvm="is_unrestricted_guest",
    ),
    Rule(
        "cr0.pg_pe",
        _CONTROL,
        "CR0.PG needs CR0.PE",
        "sregs.cr0",
        lambda s: s.paging and not s.sregs.cr0 & CR0_PE,
        kvm="KVM_SET_SREGS",
    ),
    Rule(
        "cr0.nw_cd",
        _AMD,
        "CR0.NW needs CR0.CD",
        "sregs.cr0",
        lambda s: s.sregs.cr0 & (CR0_NW | CR0_CD) == CR0_NW,
        kvm="KVM_SET_SREGS",
    ),
    Rule(
        "cr3.width",
        _CONTROL,
        "CR3 has no bit beyond the physical-address width",
        "sregs.cr3",
        lambda s: s.sregs.cr3 >> s.physical_bits != 0,
    ),
    Rule(
        "cr4.reserved",
        _CONTROL,
        "reserved bits of CR4 are 0, and VMXE is KVM's own (IA32_VMX_CR4_FIXED1)",
        "sregs.cr4",
        lambda s: s.sregs.cr4 & ~_CR4_KNOWN != 0,
        kvm="KVM_SET_SREGS",
    ),
    Rule(
        "cr4.pae",
        _CONTROL,
        "IA-32e mode needs CR0.PG and CR4.PAE",
        "sregs.cr4",
        lambda s: s.long_mode and s.paging and not s.sregs.cr4 & CR4_PAE,
        kvm="KVM_SET_SREGS",
    ),
    Rule(
        "cr4.pcide",
        _CONTROL,
        "CR4.PCIDE is 0 outside IA-32e mode",
        "sregs.cr4",
        lambda s: bool(s.sregs.cr4 & CR4_PCIDE) and not s.long_mode,
    ),
    Rule(
        "cr4.cet",
        _CONTROL,
        "CR4.CET needs CR0.WP",
        "sregs.cr4",
        lambda s: bool(s.sregs.cr4 & CR4_CET) and not s.sregs.cr0 & CR0_WP,
    ),
    Rule(
        "dr7.high", _CONTROL, "bits 63:32 of DR7 are 0", "debugregs.dr7", lambda s: s.debugregs.dr7 >> 32 != 0
    ),
    Rule("dr6.high", _AMD, "bits 63:32 of DR6 are 0", "debugregs.dr6", lambda s: s.debugregs.dr6 >> 32 != 0),
    Rule(
        "efer.reserved",
        _CONTROL,
        "reserved bits of EFER are 0",
        "sregs.efer",
        lambda s: s.sregs.efer & ~_EFER_KNOWN != 0,
        kvm="KVM_SET_SREGS",
    ),
    Rule(
        "efer.lma",
        _CONTROL,
        "EFER.LMA equals EFER.LME with paging on, and is 0 without",
        "sregs.efer",
        _lma_is_wrong,
    ),
    Rule(
        "sysenter.canonical",
        _CONTROL,
        "IA32_SYSENTER_ESP and IA32_SYSENTER_EIP are canonical",
        "msrs",
        lambda s: any(not s.canonical(s.msrs.get(index, 0)) for index in _SYSENTER),
    ),
    Rule("pat.types", _CONTROL, "each byte of IA32_PAT is 0, 1, 4, 5, 6 or 7", "msrs", _pat_is_wrong),
    Rule(
        "gdtr.base",
        _TABLES,
        "GDTR's base is canonical",
        "sregs.gdt",
        lambda s: not s.canonical(s.sregs.gdt.base),
    ),
    Rule(
        "gdtr.limit", _TABLES, "GDTR's limit has 16 bits", "sregs.gdt", lambda s: s.sregs.gdt.limit >> 16 != 0
    ),
    Rule(
        "idtr.base",
        _TABLES,
        "IDTR's base is canonical",
        "sregs.idt",
        lambda s: not s.canonical(s.sregs.idt.base),
    ),
    Rule(
        "idtr.limit", _TABLES, "IDTR's limit has 16 bits", "sregs.idt", lambda s: s.sregs.idt.limit >> 16 != 0
    ),
    Rule(
        "rip.width",
        _RIP,
        "bits 63:32 of RIP are 0 outside 64-bit mode, and RIP is canonical in it",
        "regs.rip",
        _rip_is_wrong,
    ),
    Rule("rflags.one", _RIP, "bit 1 of RFLAGS is 1", "regs.rflags", lambda s: not s.regs.rflags & 2),
    Rule(
        "rflags.zero",
        _RIP,
        "bits 63:22, 15, 5 and 3 of RFLAGS are 0",
        "regs.rflags",
        lambda s: s.regs.rflags & _RFLAGS_ZERO != 0,
    ),
    Rule(
        "rflags.vm",
        _RIP,
        "RFLAGS.VM is 0 in IA-32e mode and without CR0.PE",
        "regs.rflags",
        lambda s: s.virtual_8086 and (s.long_mode or not s.sregs.cr0 & CR0_PE),
    ),
    Rule(
        "rflags.if",
        _RIP,
        "RFLAGS.IF is 1 if the entry delivers an external interrupt",
        "regs.rflags",
        lambda s: s.interrupt_injected and not s.regs.rflags & FLAG_IF,
        kvm="KVM_INTERRUPT (queued whatever IF says)",
    ),
    Rule(
        "activity.hlt",
        _OTHER,
        "a halted CPU has SS.DPL 0",
        "mp_state",
        lambda s: s.mp_state == MpState.HALTED and s.sregs.ss.dpl != 0,
    ),
    Rule(
        "activity.shadow",
        _OTHER,
        "a CPU under an interrupt shadow is active",
        "mp_state",
        lambda s: s.mp_state != MpState.RUNNABLE and bool(s.events.interrupt.shadow),
    ),
    Rule(
        "shadow.both",
        _OTHER,
        "STI and MOV SS do not both cast their shadow (what KVM reports on AMD is one bit shown as two)",
        "events.interrupt",
        lambda s: s.events.interrupt.shadow == Shadow.STI | Shadow.MOV_SS,
    ),
    Rule(
        "shadow.sti",
        _OTHER,
        "no shadow of STI while RFLAGS.IF is 0",
        "events.interrupt",
        lambda s: bool(s.events.interrupt.shadow & Shadow.STI) and not s.regs.rflags & FLAG_IF,
    ),
    Rule(
        "shadow.interrupt",
        _OTHER,
        "no shadow if the entry delivers an external interrupt",
        "events.interrupt",
        lambda s: s.interrupt_injected and bool(s.events.interrupt.shadow),
    ),
    Rule(
        "shadow.nmi",
        _OTHER,
        "no shadow of MOV SS if the entry delivers an NMI",
        "events.nmi",
        lambda s: s.events.nmi.injected and bool(s.events.interrupt.shadow & Shadow.MOV_SS),
    ),
    Rule(
        "event.exception",
        _EVENT,
        "an exception has a vector below 32 other than the NMI's",
        "events.exception",
        lambda s: (
            (s.events.exception.injected or s.events.exception.pending)
            and (s.events.exception.vector > 31 or s.events.exception.vector == 2)
        ),
        kvm="KVM_SET_VCPU_EVENTS",
    ),
    Rule(
        "pdpte.reserved",
        _PDPTE,
        "with PAE, bits 2:1, 8:5 and those beyond the physical-address width of a present PDPTE are 0",
        "pdptes",
        _pdptes_are_wrong,
        kvm="KVM_SET_SREGS (load_pdptrs)",
    ),
)
