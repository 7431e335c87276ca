/*
 * [B120] What is timed at ring 0.
 *
 * The ring-0 Host calls its Switcher through a far pointer in the mailbox.  While the rig is
 * there, the pointer leads to rig_entry instead: from here a real Switcher is called, or one
 * of its lines is done alone, as often as rig_left says, between readings of the time-stamp
 * counter; and then it goes back by IRET, as a Switcher would.  One KVM_RUN is one sample.
 *
 * There are two ways to time.  A LOOP reads the counter before the first operation and after
 * the last.  A PART is read by itself every time and the distances are summed up, because what
 * comes before and after it (a busy bit to clear, the old table to load again) is not to be
 * timed.  Both keep an operation between two LFENCEs, so that it is over before anything else
 * begins.  CPUID, the usual fence, would leave the VM.
 *
 * Outside the readings every body has the same instructions between OPEN and CLOSE, so what
 * the empty one reads can be taken off to the instruction.
 *
 * EBP holds the vCPU's mailbox whenever an interrupt of the Host's could come; SS is flat.
 * Exceptions go to the Host's own handlers, which find the mailbox behind the GDT: that of the
 * scratch pair has room for one behind it, too.
 */
#include "asm_offsets.h"
#include "bench_offsets.h"

/* [B130] The rig's pages in the Host area: VM-physical, which is linear for the Host. */
	.macro PLACE name, offset
	.globl	\name
	.set	\name, HOST_AREA_BASE + 0x80000 + \offset
	.endm

	PLACE	rig_text, 0x0000	/* read-only and executable, up to rig_data */
	PLACE	rig_data, 0x4000
	PLACE	rig_left, 0x4000	/* operations still to be done */
	PLACE	rig_body, 0x4004	/* which body: an address */
	PLACE	rig_sum, 0x4008		/* cycles, 64 bits */
	PLACE	rig_start, 0x4010	/* the first reading */
	PLACE	rig_root, 0x4018	/* the Host's CR3 */
	PLACE	rig_other_root, 0x401C	/* another one that says the same */
	PLACE	rig_switcher, 0x4020	/* far pointer: the Switcher's door */
	PLACE	rig_edx, 0x4028		/* what EDX holds after OPEN */
	PLACE	rig_back, 0x402C	/* where GATE_BACK leads */
	PLACE	rig_esp, 0x4030
	PLACE	rig_timed, 0x4034	/* operations still to come, when those of the warm-up are done */
	PLACE	rig_pair, 0x5000	/* a pair of pages that no Switcher knows */
	PLACE	rig_pdpt, 0x7000	/* what rig_other_root names */
	PLACE	rig_task, 0x7100	/* the second task's TSS */
	PLACE	rig_user_table, 0x8000	/* shows rig_text to ring 3, at RIG_USER */
	PLACE	rig_stack, 0x9000	/* one page; a trap into ring 0 lands at its end */
	PLACE	rig_end, 0xA000
	PLACE	rig_pages, 0x20000	/* 64 pages to be touched */
	PLACE	rig_pages_end, 0x60000

#define STACK_TOP (rig_stack + PAGE_BYTES)

/* Linear only: above all Guests' memory and below the Switcher. */
#define RIG_USER 0xFE000000
	.globl	rig_user
	.set	rig_user, RIG_USER

/* [B140] Selectors that the Host does not use, and vectors that nobody sends.  The user's stand
 * where SYSEXIT looks for them: behind the Host's own. */
#define RING1_CS 0x89
#define RING1_DS 0x91
#define TASK_SELECTOR 0x98
#define GATE_BACK 0x40
#define GATE_TRAP 0x41
#define GATE_RING3 0x42
	.globl	ring1_cs, ring1_ds, task_selector, gate_back_vector, gate_trap_vector, gate_ring3_vector
	.set	ring1_cs, RING1_CS
	.set	ring1_ds, RING1_DS
	.set	task_selector, TASK_SELECTOR
	.set	gate_back_vector, GATE_BACK
	.set	gate_trap_vector, GATE_TRAP
	.set	gate_ring3_vector, GATE_RING3

/* What an IRET to another ring takes, as it lies at the end of a register page. */
#define IRET_BYTES 20
#define TRAP_VECTOR 13

	/* [B150] The readings.  OPEN leaves EAX and EDX as the Switcher's lines want them. */
	.macro OPEN
	lfence
	rdtsc
	mov	%eax, rig_start
	mov	%edx, rig_start + 4
	mov	$rig_pair, %eax
	mov	rig_edx, %edx
	lfence
	.endm

	.macro CLOSE
	lfence
	rdtsc
	lfence
	sub	rig_start, %eax
	sbb	rig_start + 4, %edx
	add	%eax, rig_sum
	adc	%edx, rig_sum + 4
	.endm

	.macro BODY name
	.balign	64
	.globl	body_\name
body_\name:
	.endm

	.macro LOOP name
	OPEN
loop_\name:
	lfence
	.endm

	.macro AGAIN name
	lfence
	decl	rig_left
	jnz	loop_\name
	CLOSE
	jmp	rig_leave
	.endm

	/* After a part, with the Host's tables and stack back in place. */
	.macro NEXT name
	decl	rig_left
	jnz	part_\name
	jmp	rig_leave
	.endm

	.macro DATA_SEGMENTS selector
	mov	$\selector, %ecx
	mov	%ecx, %ds
	mov	%ecx, %es
	mov	%ecx, %fs
	mov	%ecx, %gs
	.endm

	.macro HOST_TSS_IDLE
	mov	$rig_pair, %eax
	mov	(S6_host_gdt_desc + DESC_base)(%eax), %edx
	andb	$0xFD, TSS_type_byte(%edx)
	.endm

	.text
	.globl	start_rig_text
start_rig_text:

	/* [B160] In and out.  The tables have been changed from outside, so whatever the TLB
	 * knows of them goes.  A task switch has set CR0.TS. */
	.globl	rig_entry
rig_entry:
	push	%ds
	push	%es
	push	%fs
	push	%gs
	mov	%cr3, %eax
	mov	%eax, %cr3
	mov	%eax, rig_root
	mov	%esp, rig_esp
rig_begin:
	mov	rig_root, %eax
	mov	%eax, rig_edx
	movl	$0, rig_sum
	movl	$0, rig_sum + 4
	jmp	*rig_body

	/* [B164] Once for practice; the second time it counts. */
	.globl	rig_leave
rig_leave:
	mov	rig_esp, %esp
	xor	%eax, %eax
	xchg	%eax, rig_timed
	mov	%eax, rig_left
	test	%eax, %eax
	jnz	rig_begin
	mov	MB_cr0(%ebp), %eax
	mov	%eax, %cr0
	pop	%gs
	pop	%fs
	pop	%es
	pop	%ds
	iret

	/* [B167] A gate's way back to wherever the body wants it. */
	.globl	gate_back
gate_back:
	jmp	*%ss:rig_back

	/* [B170] Nothing, in a loop and as a part; and nothing but what a Switcher's caller loads. */
	BODY	empty
	LOOP	empty
	AGAIN	empty

	BODY	reading
part_reading:
	OPEN
	CLOSE
	NEXT	reading

	BODY	arguments
	LOOP	arguments
	mov	MB_pair(%ebp), %eax
	mov	MB_root(%ebp), %ebx
	AGAIN	arguments

	/* [B180] There and back through a real Switcher.  All but EBP, ESP and segments is lost. */
	BODY	round_trip
	LOOP	round_trip
	mov	MB_pair(%ebp), %eax
	mov	MB_root(%ebp), %ebx
	.globl	round_trip_first
round_trip_first:
	pushf
	lcall	*rig_switcher
	.globl	round_trip_behind
round_trip_behind:
	AGAIN	round_trip

	/* [B190] Single instructions.  EAX is the scratch pair, which names the Host's tables. */
	BODY	cr3_same
	mov	rig_root, %ebx
	LOOP	cr3_same
	mov	%ebx, %cr3
	AGAIN	cr3_same

	.macro TOUCHED count
	BODY	cr3_touched_\count
	mov	rig_root, %ebx
	LOOP	cr3_touched_\count
	mov	%ebx, %cr3
	.set	page, rig_pages
	.rept	\count
	mov	page, %ecx
	.set	page, page + PAGE_BYTES
	.endr
	AGAIN	cr3_touched_\count
	.endm
	TOUCHED	8
	TOUCHED	64

	BODY	segments
	mov	$HOST_DS, %ebx
	LOOP	segments
	mov	%ebx, %ds
	mov	%ebx, %es
	mov	%ebx, %fs
	mov	%ebx, %gs
	AGAIN	segments

	BODY	lgdt
	LOOP	lgdt
	lgdt	S6_host_gdt_desc(%eax)
	AGAIN	lgdt

	BODY	lidt
	LOOP	lidt
	lidt	S6_host_idt_desc(%eax)
	AGAIN	lidt

	BODY	ltr
part_ltr:
	HOST_TSS_IDLE
	mov	$TSS_SELECTOR, %ebx
	OPEN
	ltr	%bx
	CLOSE
	NEXT	ltr

	/* [B200] The plain way between rings 0 and 3: out by IRET, in by INT, and the frame that
	 * INT leaves is the next IRET's.  In ring 3 EIP stays behind the INT, so there is a JMP. */
	BODY	ring0_ring3
	DATA_SEGMENTS USER_DS
	mov	$STACK_TOP, %esp
	push	$USER_DS
	push	$0
	pushf
	push	$USER_CS
	push	$(RIG_USER + ring3_start - start_rig_text)
	LOOP	ring0_ring3
	iret
	.globl	gate_ring3
gate_ring3:
	AGAIN	ring0_ring3
ring3_int:
	int	$GATE_RING3
ring3_start:
	jmp	ring3_int

	BODY	sysenter
	mov	$STACK_TOP, %esp
	movl	$(RIG_USER + ring3_sysenter - start_rig_text), rig_edx
	xor	%ecx, %ecx
	LOOP	sysenter
	sysexit
	.globl	sysenter_entry
sysenter_entry:
	AGAIN	sysenter
ring3_sysenter:
	sysenter

	/* [B210] A whole task, there and back.  The second one stands in front of its JMP. */
	BODY	task_switch
	LOOP	task_switch
	ljmp	$TASK_SELECTOR, $0
	AGAIN	task_switch
task_back:
	ljmp	$TSS_SELECTOR, $0
	.globl	task_start
task_start:
	jmp	task_back

	/* [B220] The lines of hardened.S, one by one, in their order and with their instructions
	 * (labels in brackets).  First the way out. */

	BODY	call	/* what the Host does: E00 is next */
part_call:
	OPEN
	pushf
	lcall	*%cs:1f
2:	CLOSE
	add	$12, %esp
	NEXT	call
1:	.long	2b
	.word	LGUEST_CS

	BODY	save_host	/* [E00 to E06] */
part_save_host:
	OPEN
	push	%es
	push	%ds
	push	%gs
	push	%fs
	push	%ebp
	mov	%esp, S6_host_sp(%eax)
	lea	FRAME_OFFSET(%eax), %esp
	CLOSE
	mov	rig_esp, %esp
	NEXT	save_host

	BODY	load_idt	/* E07 */
part_load_idt:
	OPEN
	lidt	S6_guest_idt_desc(%eax)
	CLOSE
	lidt	rig_pair + S6_host_idt_desc
	NEXT	load_idt

	BODY	load_gdt	/* E08 */
part_load_gdt:
	OPEN
	lgdt	S6_guest_gdt_desc(%eax)
	CLOSE
	lgdt	rig_pair + S6_host_gdt_desc
	NEXT	load_gdt

	/* [E09 to E12]  The busy bit that is cleared is another table's, as it is there. */
	BODY	load_tr
part_load_tr:
	HOST_TSS_IDLE
	OPEN
	mov	$TSS_SELECTOR, %edx
	ltr	%dx
	mov	(S6_guest_gdt_desc + DESC_base)(%eax), %edx
	andb	$0xFD, TSS_type_byte(%edx)
	CLOSE
	NEXT	load_tr

	BODY	load_cr3	/* E13 */
part_load_cr3:
	mov	rig_other_root, %ebx
	OPEN
	mov	%ebx, %cr3
	CLOSE
	mov	rig_root, %ebx
	mov	%ebx, %cr3
	NEXT	load_cr3

	BODY	pop_registers	/* [E14 to E20]; the frame's EBP is the mailbox */
part_pop_registers:
	mov	$(rig_pair + FRAME_OFFSET), %esp
	OPEN
	pop	%eax
	pop	%ebx
	pop	%ecx
	pop	%edx
	pop	%esi
	pop	%edi
	pop	%ebp
	CLOSE
	mov	rig_esp, %esp
	NEXT	pop_registers

	BODY	pop_segments	/* [E21 to E25] */
part_pop_segments:
	mov	$(rig_pair + FRAME_OFFSET + 28), %esp
	OPEN
	pop	%gs
	pop	%fs
	pop	%ds
	pop	%es
	add	$8, %esp
	CLOSE
	mov	rig_esp, %esp
	NEXT	pop_segments

	/* E26  The second reading is taken at ring 1, which has pages in common with ring 0. */
	BODY	iret_out
	DATA_SEGMENTS RING1_DS
	movl	$3f, rig_back
part_iret_out:
	mov	$(rig_pair + PAGE_BYTES), %esp
	push	$RING1_DS
	push	$STACK_TOP
	pushf
	push	$RING1_CS
	push	$2f
	OPEN
	iret
2:	CLOSE
	int	$GATE_BACK
3:	mov	rig_esp, %esp
	NEXT	iret_out

	/* [B230] A trap, and the way back. */
	BODY	trap_in
	DATA_SEGMENTS RING1_DS
part_trap_in:
	mov	$(rig_pair + PAGE_BYTES), %esp
	push	$RING1_DS
	push	$STACK_TOP
	pushf
	push	$RING1_CS
	push	$2f
	iret
2:	OPEN
	int	$GATE_TRAP
	.globl	gate_trap
gate_trap:
	CLOSE
	mov	rig_esp, %esp
	NEXT	trap_in

	BODY	stub	/* the stub of vector 13, and [R00, R01] */
part_stub:
	push	$RING1_CS
	push	$0
	push	$0
	OPEN
	push	$TRAP_VECTOR
	jmp	1f
1:	testb	$3, 12(%esp)
	jz	1b
	CLOSE
	mov	rig_esp, %esp
	NEXT	stub

	BODY	push_frame	/* [R02 to R12] */
part_push_frame:
	mov	$(rig_pair + TRAPNUM_OFFSET), %esp
	OPEN
	push	%es
	push	%ds
	push	%fs
	push	%gs
	push	%ebp
	push	%edi
	push	%esi
	push	%edx
	push	%ecx
	push	%ebx
	push	%eax
	CLOSE
	mov	rig_esp, %esp
	NEXT	push_frame

	BODY	find_pair	/* [R13 to R18] */
part_find_pair:
	DATA_SEGMENTS RING1_DS
	mov	$(rig_pair + FRAME_OFFSET), %esp
	OPEN
	mov	$LGUEST_DS, %eax
	mov	%eax, %ds
	mov	%esp, %eax
	and	$-PAGE_BYTES, %eax
	mov	TRAPNUM_OFFSET(%eax), %ebx
	mov	S6_host_cr3(%eax), %edx
	CLOSE
	mov	rig_esp, %esp
	NEXT	find_pair

	BODY	load_host_cr3	/* R19 */
part_load_host_cr3:
	mov	rig_other_root, %ebx
	mov	%ebx, %cr3
	OPEN
	mov	%edx, %cr3
	CLOSE
	NEXT	load_host_cr3

	BODY	load_host_gdt	/* [R20, R21] */
part_load_host_gdt:
	lgdt	rig_pair + S6_guest_gdt_desc
	OPEN
	andb	$0xFD, (S6_guest_gdt + TSS_type_byte)(%eax)
	lgdt	S6_host_gdt_desc(%eax)
	CLOSE
	NEXT	load_host_gdt

	BODY	load_host_idt	/* R22 */
part_load_host_idt:
	lidt	rig_pair + S6_guest_idt_desc
	OPEN
	lidt	S6_host_idt_desc(%eax)
	CLOSE
	NEXT	load_host_idt

	BODY	load_host_tr	/* [R23 to R25] */
part_load_host_tr:
	HOST_TSS_IDLE
	mov	%esp, S6_host_sp(%eax)
	OPEN
	mov	S6_host_sp(%eax), %esp
	mov	$TSS_SELECTOR, %edx
	ltr	%dx
	CLOSE
	NEXT	load_host_tr

	BODY	restore_host	/* [R26 to R30] */
part_restore_host:
	push	%es
	push	%ds
	push	%gs
	push	%fs
	push	%ebp
	OPEN
	pop	%ebp
	pop	%fs
	pop	%gs
	pop	%ds
	pop	%es
	CLOSE
	NEXT	restore_host

	BODY	return	/* R31 */
part_return:
	pushf
	push	$LGUEST_CS
	push	$2f
	OPEN
	iret
2:	CLOSE
	NEXT	return

	/* [B240] For the tests: what faults, as a defect of a body would, under the Host's tables
	 * and under the scratch pair's. */
	BODY	faulty
	ud2

	BODY	faulty_scratch
	lidt	rig_pair + S6_guest_idt_desc
	lgdt	rig_pair + S6_guest_gdt_desc
	ud2

	.globl	end_rig_text
end_rig_text:
