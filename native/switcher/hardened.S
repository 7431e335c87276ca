/*
 * [X10] The Switcher that survives what the one of 2007 did not.
 *
 * The same journey as seed.S (read that first), with four differences:
 *
 *   - the IDT changes before the GDT, so that no NMI can meet the Host's IDT
 *     with the Guest's GDT;
 *   - the pair is found by rounding ESP down to its page, which stays right when
 *     a fault comes half-way through the frame;
 *   - an exception raised in here is told from one raised by the Guest, and ends
 *     in a report instead of a guess;
 *   - an NMI is never lost: from the Guest it is taken to the Host, from in here
 *     it is counted.
 *
 * It costs no more than it must.  An instruction that seed.S has no counterpart
 * for has `_extra` in its label and its reason beside it; three that seed.S needs
 * are saved on the way in and on the delivery path.  LDTR and SYSENTER are shut by
 * the Host once and for all and cost nothing here.
 *
 * At the door: as in seed.S.  The frame is that of 2.6.24 and later, whose first
 * words are a hypercall's arguments.
 */

#include "asm_offsets.h"

#define EXIT_TRAP check_origin
#define EXIT_HYPERCALL return_to_host
#define EXIT_NMI handle_nmi
#define EXIT_INTERRUPT deliver_to_host

/* The CS that the CPU pushed, seen from a stub's exit: above vector, code and EIP. */
#define PUSHED_CS 12

	/* [X20] The error-code vectors of today: to the seven of 2007 come control
	 * protection (21), VMM communication (29) and security (30). */
	.macro has_error_code vector
	.set	code, 0
	.irp	n, 8, 10, 11, 12, 13, 14, 17, 21, 29, 30
	.if \vector == \n
	.set	code, 1
	.endif
	.endr
	.endm

	.text
	.globl	start_switcher_text
start_switcher_text:

	/* [X30] Still all Host: stack, tables, everything.  A fault here is the
	 * Host's to handle, on the Host's stack. */
	.globl	switch_to_guest
switch_to_guest:
E00_push_es:		push	%es
E01_push_ds:		push	%ds
E02_push_gs:		push	%gs
E03_push_fs:		push	%fs
E04_push_ebp:		push	%ebp
E05_store_host_sp:	mov	%esp, S6_host_sp(%eax)

	/* [X40] One instruction where there were three; ESP still changes in one
	 * step.  Under the Host's tables this address is the vCPU's own spare page,
	 * so whatever an NMI or a fault pushes here harms nobody. */
E06_move_stack:		lea	FRAME_OFFSET(%eax), %esp

	/* [X50] IDT first.  Between the two the CPU holds the Guest's IDT and the
	 * Host's GDT; the Guest's gates name LGUEST_CS, and that descriptor has the
	 * same place in both GDTs.  The other order is fatal (seed.S, S50). */
E07_load_guest_idt:	lidt	S6_guest_idt_desc(%eax)
E08_load_guest_gdt:	lgdt	S6_guest_gdt_desc(%eax)

	/* [X60] LTR writes to the GDT, so before CR3.  The mask clears the value 2,
	 * which is bit 1 and not "bit 2", of the Host's descriptor. */
E09_tss_selector:	mov	$TSS_SELECTOR, %edx
E10_load_guest_tr:	ltr	%dx
E11_host_gdt:		mov	(S6_host_gdt_desc + DESC_base)(%eax), %edx
E12_host_tss_idle:	andb	$0xFD, TSS_type_byte(%edx)

	/* [X70] The Host's memory is gone, and under ESP lies the Guest's frame. */
E13_load_guest_cr3:	mov	%ebx, %cr3

	/* [X80] The selectors were the Guest's to choose, and it may have changed
	 * what they name since.  Each of the five POPs and the IRET can fault; the
	 * CPU then finds the Guest's IDT, LGUEST_CS in the Guest's GDT, and a stack
	 * that is still somewhere in this page. */
E14_pop_eax:		pop	%eax
E15_pop_ebx:		pop	%ebx
E16_pop_ecx:		pop	%ecx
E17_pop_edx:		pop	%edx
E18_pop_esi:		pop	%esi
E19_pop_edi:		pop	%edi
E20_pop_ebp:		pop	%ebp
E21_pop_gs:		pop	%gs
E22_pop_fs:		pop	%fs
E23_pop_ds:		pop	%ds
E24_pop_es:		pop	%es
E25_skip_trapnum:	add	$8, %esp
E26_enter_guest:	iret

	/* [X90] Back under the Host's tables.  Nothing between the first push and
	 * CR3 touches memory but this page and the state page, and both are there
	 * in every set of tables. */
	.macro SWITCH_TO_HOST name
R02_push_es_\name:	push	%es
R03_push_ds_\name:	push	%ds
R04_push_fs_\name:	push	%fs
R05_push_gs_\name:	push	%gs
R06_push_ebp_\name:	push	%ebp
R07_push_edi_\name:	push	%edi
R08_push_esi_\name:	push	%esi
R09_push_edx_\name:	push	%edx
R10_push_ecx_\name:	push	%ecx
R11_push_ebx_\name:	push	%ebx
R12_push_eax_\name:	push	%eax
R13_data_selector_\name: mov	$LGUEST_DS, %eax
R14_load_ds_\name:	mov	%eax, %ds
R15_copy_esp_\name:	mov	%esp, %eax
R16_find_pair_\name:	and	$-PAGE_BYTES, %eax
R17_read_trapnum_\name:	mov	TRAPNUM_OFFSET(%eax), %ebx
R18_host_cr3_\name:	mov	S6_host_cr3(%eax), %edx
R19_load_host_cr3_\name: mov	%edx, %cr3
R20_guest_tss_idle_\name: andb	$0xFD, (S6_guest_gdt + TSS_type_byte)(%eax)
R21_load_host_gdt_\name: lgdt	S6_host_gdt_desc(%eax)
R22_load_host_idt_\name: lidt	S6_host_idt_desc(%eax)
R23_host_stack_\name:	mov	S6_host_sp(%eax), %esp
R24_tss_selector_\name:	mov	$TSS_SELECTOR, %edx
R25_load_host_tr_\name:	ltr	%dx
R26_pop_ebp_\name:	pop	%ebp
R27_pop_fs_\name:	pop	%fs
R28_pop_gs_\name:	pop	%gs
R29_pop_ds_\name:	pop	%ds
R30_pop_es_\name:	pop	%es
	.endm

	/* [X100] Who raised this exception?  The Guest runs at ring 1 or 3 and this
	 * page at ring 0, so the RPL of the pushed CS tells: without the two
	 * extra instructions a selector that the Guest made bad would be taken for a trap
	 * of the Guest's, with a frame made of the Switcher's own registers.
	 * Hypercalls and interrupts cannot be raised in here (no INT instruction, IF
	 * clear) and go straight to their exits. */
	.globl	check_origin
check_origin:
R00_origin_extra:	testb	$3, PUSHED_CS(%esp)
R01_if_ours_extra:	jz	fault_in_switcher

	/* [X110] A trap of the Guest's, or its hypercall: home to whoever called. */
	.globl	return_to_host
return_to_host:
	SWITCH_TO_HOST return
R31_return:		iret

	/* [X120] The gate's offset lies in the low half of its first dword and the
	 * high half of its second: load the second, overwrite its low half. */
	.globl	deliver_to_host
deliver_to_host:
	SWITCH_TO_HOST deliver
D00_host_idt:		mov	(S6_host_idt_desc + DESC_base)(%eax), %edx
D01_offset_high:	mov	4(%edx, %ebx, 8), %eax
D02_offset_low:		mov	(%edx, %ebx, 8), %ax
D03_jump:		jmp	*%eax

	/* [X130] NMI.  From ring 1 or 3 it makes the whole journey to the Host's
	 * vector 2, as an interrupt would.  There is no IRET on the way, so further
	 * NMIs stay masked until that handler's own.  2007 dropped it; the two
	 * extra instructions are the price of not doing so. */
	.globl	handle_nmi
handle_nmi:
N00_origin_extra:	testb	$3, PUSHED_CS(%esp)
N01_if_guest_extra:	jnz	deliver_to_host

	/* [X140] From in here: any of the tables may be live in any combination, DS
	 * may be the Guest's, and what is on the stack above us is in use.  What can
	 * be relied on: SS is flat, ESP is in the first page of the pair, and the
	 * state page next to it names the mailbox and the Host's page table.  So:
	 * count under the Host's tables, without a stack (it may be another frame
	 * there), and put everything back.  All of it is extra: seed.S loses the
	 * NMI. */
N02_push_eax_extra:	push	%eax
N03_push_ecx_extra:	push	%ecx
N04_push_edx_extra:	push	%edx
N05_copy_esp_extra:	mov	%esp, %eax
N06_find_pair_extra:	and	$-PAGE_BYTES, %eax
N07_mailbox_extra:	mov	%ss:S6_mailbox(%eax), %ecx
N08_host_cr3_extra:	mov	%ss:S6_host_cr3(%eax), %eax
N09_keep_cr3_extra:	mov	%cr3, %edx
N10_load_host_cr3_extra: mov	%eax, %cr3
N11_count_extra:	incl	%ss:MB_nmi_switcher(%ecx)
N12_restore_cr3_extra:	mov	%edx, %cr3
N13_pop_edx_extra:	pop	%edx
N14_pop_ecx_extra:	pop	%ecx
N15_pop_eax_extra:	pop	%eax
N16_drop_words:		add	$8, %esp
N17_resume:		iret

	/* [X150] A fault of our own.  OUT at ring 0 asks nobody: no table, no stack,
	 * no TSS.  The world outside reads the registers, names the boundary from
	 * the EIP on this stack, kills the Guest whose fault it was and starts the
	 * vCPU's Host anew (its TSS may still be marked busy).  Both are extra: seed.S
	 * goes on with whatever it finds. */
	.globl	fault_in_switcher
fault_in_switcher:
F00_report_extra:	out	%al, $PORT_SWITCHER_FAULT
F01_stay_extra:		jmp	fault_in_switcher

#include "stubs.S"

	.globl	end_switcher_text
end_switcher_text:
