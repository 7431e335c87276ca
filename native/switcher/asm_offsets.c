/*
 * What the assembler must know about the structures in native/abi, found out by
 * the compiler: each marker below survives into the compiled assembler, where
 * native/tools/asm_offsets.py turns it into a #define.
 *
 * Offsets into the state page count from the start of the pair (its first page),
 * because that is the address the Switcher is given.
 */
#include <stddef.h>

#include "lguest.h"
#include "machine.h"

#define DEFINE(name, value) __asm__ volatile("->" #name " %0" : : "i"(value))
#define CONSTANT(name) __asm__ volatile("->" #name " %0" : : "i"(name))
#define STATE(prefix, type, field) DEFINE(prefix##_##field, PAGE_BYTES + offsetof(struct type, field))
#define MAILBOX(field) DEFINE(MB_##field, offsetof(struct kvmhost_mailbox, field))

void asm_offsets(void);

void asm_offsets(void)
{
	STATE(S8, kvmhost_state_8, host_cr3);
	STATE(S8, kvmhost_state_8, host_idt_desc);
	STATE(S8, kvmhost_state_8, host_gdt_desc);
	STATE(S8, kvmhost_state_8, host_sp);
	STATE(S8, kvmhost_state_8, guest_idt_desc);
	STATE(S8, kvmhost_state_8, guest_gdt_desc);
	STATE(S8, kvmhost_state_8, guest_gdt);

	STATE(S6, kvmhost_state_6, host_cr3);
	STATE(S6, kvmhost_state_6, host_idt_desc);
	STATE(S6, kvmhost_state_6, host_gdt_desc);
	STATE(S6, kvmhost_state_6, host_sp);
	STATE(S6, kvmhost_state_6, guest_idt_desc);
	STATE(S6, kvmhost_state_6, guest_gdt_desc);
	STATE(S6, kvmhost_state_6, guest_gdt);
	DEFINE(S6_mailbox, STATE_MAILBOX_OFFSET);

	/* The base address inside a pseudo-descriptor follows its limit. */
	DEFINE(DESC_base, offsetof(struct kvmhost_desc6, base_low));
	/* Byte 5 of the TSS descriptor holds its type, and in it the busy flag. */
	DEFINE(TSS_type_byte, TSS_SELECTOR + 5);

	CONSTANT(FRAME_OFFSET);
	CONSTANT(TRAPNUM_OFFSET);
	CONSTANT(PAGE_BYTES);
	CONSTANT(LGUEST_DS);
	CONSTANT(LGUEST_CS);
	CONSTANT(GUEST_DS);
	CONSTANT(USER_CS);
	CONSTANT(USER_DS);
	CONSTANT(IDT_ENTRIES);
	CONSTANT(TSS_SELECTOR);
	CONSTANT(HYPERCALL_VECTOR);
	CONSTANT(LHCALL_LGUEST_INIT);
	CONSTANT(LHCALL_NEW_PGTABLE);
	CONSTANT(LHCALL_FLUSH_ASYNC);
	CONSTANT(LHCALL_TS);
	CONSTANT(SYSCALL_VECTOR);
	CONSTANT(KICK_VECTOR);
	CONSTANT(SPURIOUS_VECTOR);
	CONSTANT(PORT_LEAVE);
	CONSTANT(PORT_HOST_FAULT);
	CONSTANT(PORT_SWITCHER_FAULT);
	CONSTANT(WORK_FPU_SAVE);
	CONSTANT(WORK_FPU_LOAD);
	CONSTANT(WORK_STAY);

	DEFINE(DATA_2624_pgdir, offsetof(struct lguest_data_2624, pgdir));

	MAILBOX(pair);
	MAILBOX(root);
	MAILBOX(entry_offset);
	MAILBOX(work);
	MAILBOX(cr0);
	MAILBOX(fpu_save);
	MAILBOX(fpu_load);
	MAILBOX(cr2);
	MAILBOX(fault_vector);
	MAILBOX(fault_error);
	MAILBOX(fault_eip);
	MAILBOX(fault_cs);
	MAILBOX(fault_eflags);
	MAILBOX(fault_cr2);
	MAILBOX(fault_esp);
	MAILBOX(nmi_host);
	MAILBOX(nmi_switcher);
	MAILBOX(kicks);
	MAILBOX(unexpected);
	MAILBOX(initialised);
	DEFINE(GDT_TO_MAILBOX, CPU_MAILBOX_OFFSET - CPU_GDT_OFFSET);
}
