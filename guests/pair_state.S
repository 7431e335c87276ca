/*
 * [G120] void pair_round(struct pair_state *want, struct pair_state *got, uint32_t dwell)
 *
 * Fills every register from *want, stays, and stores every register to *got.
 * Staying is LEA and LOOP: they count EAX up and ECX down and touch no flag, so
 * all others, and their sum, must come out as they went in.  Whatever another
 * Guest, the Host or an interrupt left behind would be seen here.
 */
#include "asm_offsets.h"
#include "pair.h"

	.text
	.globl	pair_round
pair_round:
	pushal
	movl	36(%esp), %ebp
	movl	%esp, saved_stack
	movl	44(%esp), %ecx
	movl	%ecx, dwell

	/* x87 and SSE in one piece, then MMX over it when there are values for it:
	 * any MMX instruction marks all eight registers as in use. */
	fxrstor	PAIR_FXSAVE(%ebp)
	cmpl	$0, PAIR_MMX(%ebp)
	je	1f
	.set	n, 0
	.irp	register, mm0, mm1, mm2, mm3, mm4, mm5, mm6, mm7
	movq	(PAIR_MMX + 8 * n)(%ebp), %\register
	.set	n, n + 1
	.endr
1:
	movw	PAIR_ES(%ebp), %es
	movw	PAIR_FS(%ebp), %fs
	movw	PAIR_GS(%ebp), %gs
	pushl	PAIR_EFLAGS(%ebp)
	movl	PAIR_EAX(%ebp), %eax
	movl	PAIR_EBX(%ebp), %ebx
	movl	PAIR_EDX(%ebp), %edx
	movl	PAIR_ESI(%ebp), %esi
	movl	PAIR_EDI(%ebp), %edi
	movw	PAIR_DS(%ebp), %ds
	movl	PAIR_EBP(%ebp), %ebp
	movl	dwell, %ecx
	popfl

	/* [G125] Nearly all of this Guest's time passes between these two labels, so it is
	 * here that it is mostly interrupted, moved, and put aside for the other. */
	.globl	pair_dwell, pair_dwell_end
pair_dwell:
	leal	1(%eax), %eax
	loop	pair_dwell
pair_dwell_end:

	/* MOV keeps flags; PUSHF sees them before anything else can change them. */
	pushfl
	movl	%ebp, stored_ebp
	movl	saved_stack, %ebp
	movl	40(%ebp), %ebp
	movl	%eax, PAIR_EAX(%ebp)
	movl	%ebx, PAIR_EBX(%ebp)
	movl	%ecx, PAIR_ECX(%ebp)
	movl	%edx, PAIR_EDX(%ebp)
	movl	%esi, PAIR_ESI(%ebp)
	movl	%edi, PAIR_EDI(%ebp)
	movl	stored_ebp, %eax
	movl	%eax, PAIR_EBP(%ebp)
	popl	PAIR_EFLAGS(%ebp)
	movl	$0, PAIR_DS(%ebp)
	movl	$0, PAIR_ES(%ebp)
	movl	$0, PAIR_FS(%ebp)
	movl	$0, PAIR_GS(%ebp)
	movw	%ds, PAIR_DS(%ebp)
	movw	%es, PAIR_ES(%ebp)
	movw	%fs, PAIR_FS(%ebp)
	movw	%gs, PAIR_GS(%ebp)
	movl	%gs:0, %eax
	movl	%eax, PAIR_GS_WORD(%ebp)
	fxsave	PAIR_FXSAVE(%ebp)

	/* NT, AC, DF and all would upset what comes next. */
	pushl	$0x202
	popfl
	movl	$GUEST_DS, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	saved_stack, %esp
	popal
	ret

	/* [G130] Where the linker script puts it nothing can move it: the first bytes of
	 * the image. */
	.section .report, "a"
	.globl	pair_report
pair_report:
	.space	64

	.bss
	.balign	4
saved_stack:
	.space	4
stored_ebp:
	.space	4
dwell:
	.space	4

	.section .note.GNU-stack, "", @progbits
