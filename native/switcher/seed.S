/*
 * [S10] The Switcher of July 2007, instruction by instruction.
 *
 * Two worlds share a CPU: the Host at ring 0 and a Guest at ring 1 and 3.  Each
 * has its own stack, descriptor tables, task register and page tables, and this
 * page is the only thing both can see, at the same address.  Going from one
 * world to the other means changing all five while standing on the ground that
 * is being changed.
 *
 * This is the order lguest had when it was merged, hazards included, because
 * history and the conformance tests need it.  Each instruction carries the
 * number of the boundary in front of it (B02 is "about to push ES"; B00 and B01
 * are the Host's pushf and lcall).  What survives what this one does not is in
 * hardened.S.
 *
 * At the door:  EAX  this CPU's pair of pages: the register page, then the state page
 *               EBX  the page table to run the Guest on
 *               the stack holds EFLAGS, CS, EIP: an interrupt frame in all but name
 */

#include "asm_offsets.h"

#define EXIT_TRAP return_to_host
#define EXIT_HYPERCALL return_to_host
#define EXIT_NMI handle_nmi
#define EXIT_INTERRUPT deliver_to_host

	/* [S20] The error-code vectors as 2007 knew them. */
	.macro has_error_code vector
	.set	code, 0
	.irp	n, 8, 10, 11, 12, 13, 14, 17
	.if \vector == \n
	.set	code, 1
	.endif
	.endr
	.endm

	.text
	.globl	start_switcher_text
start_switcher_text:

	/* [S30] Put away what the Host has and C does not expect us to spoil.  The
	 * six other registers are declared lost by whoever calls. */
	.globl	switch_to_guest
switch_to_guest:
B02_push_es:		push	%es
B03_push_ds:		push	%ds
B04_push_gs:		push	%gs
B05_push_fs:		push	%fs
B06_push_ebp:		push	%ebp
B07_store_host_sp:	mov	%esp, S8_host_sp(%eax)

	/* [S40] Move to the Guest's register frame.  An NMI may come at any time
	 * and will push wherever ESP points, so the sum is made elsewhere and ESP
	 * changes in one step. */
B08_copy_pair:		mov	%eax, %edx
B09_add_frame:		add	$FRAME_OFFSET, %edx
B10_move_stack:		mov	%edx, %esp

	/* [S50] The Guest's tables.  Between these two the CPU holds the Guest's
	 * GDT and the Host's IDT; an NMI right here looks up the Host's code
	 * selector among the Guest's descriptors, finds a ring-1 segment, and the
	 * machine is gone.  One boundary, ten years. */
B11_load_guest_gdt:	lgdt	S8_guest_gdt_desc(%eax)
B12_load_guest_idt:	lidt	S8_guest_idt_desc(%eax)

	/* [S60] LTR marks the descriptor busy, so it writes to the Guest's GDT,
	 * which the Guest's page tables show read-only: it must come before CR3. */
B13_tss_selector:	mov	$TSS_SELECTOR, %edx
B14_load_guest_tr:	ltr	%dx

	/* [S70] The Host's own TSS is still marked busy and LTR refuses a busy one,
	 * so make it available for the way back.  The flag was called "bit 2" in
	 * 2007.  It has the value 2, which makes it bit 1; the mask is right. */
B15_host_gdt:		mov	(S8_host_gdt_desc + DESC_base)(%eax), %edx
B16_host_tss_idle:	andb	$0xFD, TSS_type_byte(%edx)

	/* [S80] From here on the Host's memory does not exist, and the page under
	 * ESP is the Guest's own register page: same address, other frame. */
B17_load_guest_cr3:	mov	%ebx, %cr3

	/* [S90] Become the Guest. */
B18_pop_ebx:		pop	%ebx
B19_pop_ecx:		pop	%ecx
B20_pop_edx:		pop	%edx
B21_pop_esi:		pop	%esi
B22_pop_edi:		pop	%edi
B23_pop_ebp:		pop	%ebp
B24_pop_gs:		pop	%gs
B25_pop_eax:		pop	%eax
B26_pop_fs:		pop	%fs
B27_pop_ds:		pop	%ds
B28_pop_es:		pop	%es
B29_skip_trapnum:	add	$8, %esp
B30_enter_guest:	iret

	/* [S100] And back.  A stub has pushed the error code or a zero, and the
	 * vector; ESP has always been at the same place when it did.  */
	.macro SWITCH_TO_HOST name
B43_push_es_\name:	push	%es
B44_push_ds_\name:	push	%ds
B45_push_fs_\name:	push	%fs
B46_push_eax_\name:	push	%eax
B47_push_gs_\name:	push	%gs
B48_push_ebp_\name:	push	%ebp
B49_push_edi_\name:	push	%edi
B50_push_esi_\name:	push	%esi
B51_push_edx_\name:	push	%edx
B52_push_ecx_\name:	push	%ecx
B53_push_ebx_\name:	push	%ebx
	/* DS may be anything the Guest could load, or nothing. */
B54_data_selector_\name: mov	$LGUEST_DS, %eax
B55_load_ds_\name:	mov	%eax, %ds
	/* The pair lies a fixed distance below, if nothing went wrong on the way
	 * in.  If a pop faulted it does not, and what is then read as the Host's
	 * page table is a number of the Guest's choosing. */
B56_copy_esp_\name:	mov	%esp, %eax
B57_find_pair_\name:	sub	$FRAME_OFFSET, %eax
	/* The frame goes out of sight with the next CR3; keep the vector. */
B58_read_trapnum_\name:	mov	TRAPNUM_OFFSET(%eax), %ebx
B59_host_cr3_\name:	mov	S8_host_cr3(%eax), %edx
B60_load_host_cr3_\name: mov	%edx, %cr3
	/* The state page can be written again: the Guest's TSS is idle now. */
B61_guest_tss_idle_\name: andb	$0xFD, (S8_guest_gdt + TSS_type_byte)(%eax)
	/* GDT before IDT: this way round nothing can fall between. */
B62_load_host_gdt_\name: lgdt	S8_host_gdt_desc(%eax)
B63_load_host_idt_\name: lidt	S8_host_idt_desc(%eax)
B64_host_stack_\name:	mov	S8_host_sp(%eax), %esp
B65_tss_selector_\name:	mov	$TSS_SELECTOR, %edx
B66_load_host_tr_\name:	ltr	%dx
B67_pop_ebp_\name:	pop	%ebp
B68_pop_fs_\name:	pop	%fs
B69_pop_gs_\name:	pop	%gs
B70_pop_ds_\name:	pop	%ds
B71_pop_es_\name:	pop	%es
	.endm

	/* [S110] A trap: nothing more to do but return to the caller, and the
	 * pushf and the far call at the beginning make that an IRET. */
	.globl	return_to_host
return_to_host:
	SWITCH_TO_HOST return
B72_return:		iret

	/* [S120] An interrupt for the Host: find the Host's own handler in its IDT
	 * and jump there.  Its IRET finds the caller's frame and returns to it, as
	 * if the interrupt had come one instruction after the call. */
	.globl	deliver_to_host
deliver_to_host:
	SWITCH_TO_HOST deliver
B72_host_idt:		mov	(S8_host_idt_desc + DESC_base)(%eax), %edx
B73_find_gate:		lea	(%edx, %ebx, 8), %eax
B74_offset_low:		movzwl	(%eax), %edx
B75_offset_high:	mov	4(%eax), %eax
B76_drop_flags:		xorw	%ax, %ax
B77_join:		or	%eax, %edx
B78_jump:		jmp	*%edx

	/* [S130] An NMI while the Guest's tables are live: there is nothing here
	 * that could handle it, so it is dropped, and the Host never knows. */
	.globl	handle_nmi
handle_nmi:
N00_drop_words:		add	$8, %esp
N01_resume:		iret

#include "stubs.S"

	.globl	end_switcher_text
end_switcher_text:
