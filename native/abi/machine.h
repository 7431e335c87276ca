/*
 * What the Switcher, the ring-0 Host, the shim and Python must agree about.
 *
 * This header is read four times: by the C compiler for the shim (64-bit) and
 * for the assert build (32-bit), by asm_offsets.c which turns it into constants
 * for the assembler, and by cffi, which gives Python the same structures.  So
 * it keeps to what all of them read: fixed-width fields, natural alignment that
 * is the same on i386 and x86-64, #defines that are plain integers, no pointers.
 */
#ifndef KVMHOST_ABI_MACHINE_H
#define KVMHOST_ABI_MACHINE_H

#include <stdint.h>

/* ---- VM-physical memory ------------------------------------------------ */

/* The Host area.  Below it nothing is mapped, so a null pointer faults. */
#define HOST_AREA_BASE 0x00100000
#define HOST_AREA_SIZE 0x00100000
/* The first Guest block; blocks are aligned so that 2 MiB entries can map them. */
#define GUEST_AREA_BASE 0x00200000
#define GUEST_AREA_ALIGN 0x00200000
/* The I/O APIC, the LAPIC and KVM's own TSS and identity pages lie above. */
#define GUEST_AREA_LIMIT 0xFE000000
#define KVM_IDENTITY_MAP_BASE 0xFFFBC000
#define KVM_TSS_BASE 0xFFFBD000

/* Inside the Host area, offsets from HOST_AREA_BASE. */
#define HOST_TEXT_OFFSET 0x0000 /* the ring-0 Host, one page, read-only and executable */
#define HOST_IDT_OFFSET 0x1000 /* 256 gates, shared by all vCPUs */
#define HOST_PD_OFFSET 0x3000 /* the Host's page tables: 4 directories, */
#define HOST_PT_OFFSET 0x7000 /* the table of the Host area itself (4 KiB pages), */
#define HOST_SWITCHER_PT_OFFSET 0x8000 /* and the Switcher's table */
#define SWITCHER_TEXT_OFFSET 0x9000 /* the Switcher, one page, mapped at SWITCHER_BASE */
#define CPU_AREA_OFFSET 0x10000
#define CPU_AREA_SIZE 0x5000
#define MAX_CPUS 16

/* Inside one vCPU's area. */
#define CPU_GDT_OFFSET 0x0000 /* 32 descriptors; sgdt leads from here to the rest */
#define CPU_TSS_OFFSET 0x0100
#define CPU_MAILBOX_OFFSET 0x0200
#define CPU_PDPT_OFFSET 0x0300 /* the top of the Host's page tables, each vCPU's own */
#define CPU_HOST_PAGE_OFFSET 0x1000 /* what the Host's tables show at the pair's first page */
#define CPU_STATE_PAGE_OFFSET 0x2000 /* the pair's second page */
#define CPU_STACK_OFFSET 0x3000
#define CPU_STACK_SIZE 0x2000

/* ---- linear addresses -------------------------------------------------- */

#define SWITCHER_BASE 0xFFC00000
#define SWITCHER_RESERVE 0x00400000 /* reserve_mem told to the Guest */
#define PAIR_SIZE 0x2000 /* pair n starts at SWITCHER_BASE + 0x1000 + n * PAIR_SIZE */
#define PAGE_BYTES 0x1000

/* ---- selectors (lguest's own indices) ---------------------------------- */

#define LGUEST_CS 0x50
#define LGUEST_DS 0x58
#define HOST_CS 0x60
#define HOST_DS 0x68
#define GUEST_CS 0x61
#define GUEST_DS 0x69
#define USER_CS 0x73
#define USER_DS 0x7B
#define TSS_SELECTOR 0x80
#define GDT_ENTRIES 32
#define IDT_ENTRIES 256

/* ---- ports and vectors ------------------------------------------------- */

#define PORT_LEAVE 0xE0 /* the ring-0 Host leaves the VM: one world switch is over */
#define PORT_HOST_FAULT 0xE1 /* an exception at ring 0 outside the Switcher's Guest half */
#define PORT_SWITCHER_FAULT 0xE2 /* an exception inside the Switcher while Guest tables are live */
#define HYPERCALL_VECTOR 0x1F
#define SYSCALL_VECTOR 0x80
#define KICK_VECTOR 0xF0
#define SPURIOUS_VECTOR 0xFF
#define CR0_TS 0x8
#define NO_TRAP 256 /* stored in trapnum before each entry */

/* ---- the mailbox: one a vCPU, plain memory seen by ring 0, C and Python -- */

#define WORK_CR0 1 /* load .cr0 */
#define WORK_FPU_SAVE 2 /* FXSAVE to .fpu_save */
#define WORK_FPU_LOAD 4 /* FXRSTOR from .fpu_load */
#define WORK_STAY 8 /* do the work above and leave again without a world switch */

#define WHERE_OUT 0
#define WHERE_IN 1

#define ATTENTION_EVENT 1 /* a virtual interrupt or another change to a Guest */
#define ATTENTION_SLICE 2 /* the time slice is over */
#define ATTENTION_STOP 4 /* give the vCPU back */
#define ATTENTION_SIGNAL 8 /* a signal interrupted KVM_RUN */

struct kvmhost_mailbox {
	uint32_t pair; /* EAX at the Switcher's door: linear address of the pair */
	uint32_t root; /* EBX: the shadow root, a CR3 value */
	uint32_t entry_offset; /* the far pointer of lcall: switch_to_guest, relocated */
	uint32_t entry_selector; /* LGUEST_CS */
	uint32_t work; /* WORK_* bits, cleared by ring 0 when done */
	uint32_t cr0;
	uint32_t fpu_save; /* VM-physical, 16-byte aligned */
	uint32_t fpu_load;
	uint32_t cr2; /* CR2 after the last world switch */
	uint32_t fault_vector; /* PORT_HOST_FAULT: what happened at ring 0 */
	uint32_t fault_error;
	uint32_t fault_eip;
	uint32_t fault_cs;
	uint32_t fault_eflags;
	uint32_t fault_cr2;
	uint32_t fault_esp;
	uint32_t nmi_host; /* NMIs taken by the Host's vector 2 */
	uint32_t nmi_switcher; /* NMIs from ring 0 under the Guest's IDT (hardened) */
	uint32_t kicks; /* kick interrupts the Host's handler acknowledged */
	uint32_t unexpected; /* other interrupts, which nobody should send */
	uint32_t where; /* WHERE_*: written by the shim around KVM_RUN */
	uint32_t attention; /* ATTENTION_* bits, set by whoever wants the vCPU's ear */
	uint32_t initialised; /* 1 once the Host has set up TR, LDTR and its LAPIC */
	uint32_t reserved;
};

/* ---- the pair's first page: register frames ----------------------------- */

/* Both frames are 18 dwords and end with the page; trapnum is at the same place. */
#define FRAME_OFFSET 0xFB8
#define FRAME_BYTES 72
#define TRAPNUM_OFFSET 0xFE4

/* 2.6.23 */
struct kvmhost_frame_2623 {
	uint32_t ebx, ecx, edx, esi, edi, ebp, gs, eax, fs, ds, es;
	uint32_t trapnum, errcode;
	uint32_t eip, cs, eflags, esp, ss;
};

/* 2.6.24 and later: the first words overlay the hypercall's arguments */
struct kvmhost_frame_2624 {
	uint32_t eax, ebx, ecx, edx, esi, edi, ebp, gs, fs, ds, es;
	uint32_t trapnum, errcode;
	uint32_t eip, cs, eflags, esp, ss;
};

/* ---- the pair's second page: what the Guest may read but not write ------ */

/* Task-State Segment, 32-bit (Intel SDM vol. 3, "Task-State Segment (TSS)"). */
struct kvmhost_tss {
	uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
	uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi;
	uint32_t es, cs, ss, ds, fs, gs, ldt;
	uint16_t trap, io_bitmap_base;
};

/* LGDT/LIDT operands, split in words so that no packing is needed. */
struct kvmhost_desc6 {
	uint16_t limit, base_low, base_high;
};
struct kvmhost_desc8 {
	uint16_t limit, base_low, base_high, pad;
};

/* 2.6.23 and 2.6.24 */
struct kvmhost_state_8 {
	uint32_t host_cr3;
	struct kvmhost_desc8 host_idt_desc;
	struct kvmhost_desc8 host_gdt_desc;
	uint32_t host_sp;
	struct kvmhost_desc8 guest_idt_desc;
	struct kvmhost_desc8 guest_gdt_desc;
	struct kvmhost_tss guest_tss;
	uint32_t guest_idt[512];
	uint32_t guest_gdt[64];
};

/* later kernels, and our hardened Switcher */
struct kvmhost_state_6 {
	uint32_t host_cr3;
	struct kvmhost_desc6 host_idt_desc;
	struct kvmhost_desc6 host_gdt_desc;
	uint32_t host_sp;
	struct kvmhost_desc6 guest_idt_desc;
	struct kvmhost_desc6 guest_gdt_desc;
	struct kvmhost_tss guest_tss;
	uint32_t guest_idt[512];
	uint32_t guest_gdt[64];
};

/* The last dword of the state page: linear address of the vCPU's mailbox (hardened). */
#define STATE_MAILBOX_OFFSET 0x1FFC /* from the pair's start */

/* ---- a Guest's block: state that a later resident Host will share ------- */

#define GUEST_STATE_OFFSET 0x0000 /* one page: struct kvmhost_guest and the FXSAVE area */
#define GUEST_REGS_OFFSET 0x1000 /* the register page */
#define GUEST_SWITCHER_PT_OFFSET 0x2000
#define GUEST_PDPT_OFFSET 0x3000 /* 4 shadow roots, 32 bytes each */
#define GUEST_POOL_OFFSET 0x4000 /* shadow directories and tables */
#define GUEST_BLOCK_SIZE 0x00200000
#define GUEST_ROOTS 4
#define ROOT_BYTES 32
#define NO_PGDIR 0xFFFFFFFF
#define NO_DATA 0xFFFFFFFF

#define CHANGED_IDT 1
#define CHANGED_GDT 2
#define CHANGED_GDT_TLS 4
#define CHANGED_ALL 3

/* What a Guest did last, for the report of its death. */
#define TRAP_NOTES 16
struct kvmhost_trap_note {
	uint32_t trapnum;
	uint32_t errcode;
	uint32_t eip;
	uint32_t cs;
	uint32_t eax; /* of a hypercall, its number */
	uint32_t cr2; /* of a page fault, where */
};

struct kvmhost_guest {
	uint32_t mem_base; /* VM-physical address of Guest-physical 0 */
	uint32_t mem_bytes; /* Guest RAM */
	uint32_t data; /* Guest-physical address of lguest_data, NO_DATA before INIT */
	uint32_t kernel_address;
	uint32_t noirq_start;
	uint32_t noirq_end;
	uint32_t syscall_vector;
	uint32_t linear; /* 1 until the first NEW_PGTABLE */
	uint32_t pae; /* the format of the Guest's own tables */
	uint32_t pgdir[GUEST_ROOTS]; /* Guest-physical top level of each root, or NO_PGDIR */
	uint32_t current_root;
	uint32_t esp1;
	uint32_t ss1;
	uint32_t stack_pages;
	uint32_t ts; /* 8 or 0, the Guest's own CR0.TS */
	uint32_t halted;
	uint32_t changed; /* CHANGED_* */
	uint32_t last_cpu;
	uint32_t next_hypercall; /* cursor of the async ring */
	uint32_t irqs_pending;
	uint32_t hypercall_pending;
	uint32_t pool_next; /* shadow pool: offset in the block of the first page never used, */
	uint32_t pool_free; /* of the first page given back, 0 for none; each leads to the next */
	uint32_t limit_bytes; /* RAM and what device memory lies behind it: all a page table may name */
	uint32_t mmio_end; /* from limit_bytes up to here a page table names device registers; or 0 */
	uint32_t idt[512]; /* the Guest's gates, already checked: low, high */
	uint32_t gdt[64]; /* the Guest's descriptors, already fixed up */
	uint8_t fxsave[512];
	uint32_t traps_noted; /* how many so far; the last TRAP_NOTES of them are in trap_notes */
	struct kvmhost_trap_note trap_notes[TRAP_NOTES]; /* number n is at n modulo TRAP_NOTES */
};

#define GUEST_FXSAVE_OFFSET 0x970

#endif
