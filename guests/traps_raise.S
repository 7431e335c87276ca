/*
 * [G70] One way to fault after the other.
 *
 * Each begins with what to expect, saves every register and the stack, and ends in
 * an instruction that does not come back: the handler sends the CPU to
 * provoke_resume, from ring 3 too.  Where the saved EIP must point, there is a
 * label at_NAME: at the instruction for a fault, behind it for a trap.
 */
#include "asm_offsets.h"
#include "traps.h"

#define CR0_TS 8

	.macro	provoke name, vector, error, text, cr2=0
	.pushsection .rodata.text, "a"
text_\name:
	.asciz	"\text"
	.popsection
	.pushsection .rodata.provocations, "a"
	.long	text_\name, go_\name, \vector, \error, at_\name, \cr2
	.popsection
go_\name:
	pushal
	movl	%esp, provoke_stack
	.endm

	/* The same from ring 3, where at_NAME lies in the user's pages. */
	.macro	provoke_user name, vector, error, text, eflags=0x202, cr2=0
	provoke	\name, \vector, \error, "\text", \cr2
	pushl	$USER_DS
	pushl	$provoke_user_stack
	pushl	$\eflags
	pushl	$USER_CS
	pushl	$user_\name
	iret
	.pushsection .user.text, "ax"
user_\name:
	.endm

	.macro	end_user
	int	$SYSCALL_VECTOR
	.popsection
	.endm

	/* [G80] The table begins; each `provoke` below adds a line to it. */
	.section .rodata.provocations, "a"
	.globl	provocations, provocations_end
	.balign	4
provocations:

	.text

	provoke	divide, 0, 0, "divide by zero"
	xorl	%edx, %edx
	xorl	%ecx, %ecx
at_divide:
	divl	%ecx
	jmp	provoke_resume

	/* TF takes effect after the instruction that follows POPF. */
	provoke	step, 1, 0, "single step"
	pushfl
	orl	$0x100, (%esp)
	popfl
	nop
at_step:
	jmp	provoke_resume

	provoke	breakpoint, 3, 0, "int3"
	int3
at_breakpoint:
	jmp	provoke_resume

	provoke	overflow, 4, 0, "into"
	movb	$0x7F, %al
	addb	$1, %al
	into
at_overflow:
	jmp	provoke_resume

	provoke	bounds, 5, 0, "bound"
	movl	$5, %eax
at_bounds:
	bound	%eax, zero_to_one
	jmp	provoke_resume

	provoke	undefined, 6, 0, "ud2"
at_undefined:
	ud2

	provoke	no_fpu, 7, 0, "FPU while TS is set"
	movl	$LHCALL_TS, %eax
	movl	$CR0_TS, %ebx
	int	$HYPERCALL_VECTOR
at_no_fpu:
	fnop
	jmp	provoke_resume

	/* A task return to the TSS that the link names: none. */
	provoke	bad_tss, 10, 0, "iret with NT"
	pushfl
	orl	$0x4000, (%esp)
	popfl
at_bad_tss:
	iret

	provoke	absent_segment, 11, (ABSENT_SELECTOR&~3), "a segment that is not present"
	movl	$ABSENT_SELECTOR, %eax
at_absent_segment:
	movl	%eax, %fs
	jmp	provoke_resume

	provoke	absent_stack, 12, (ABSENT_SELECTOR&~3), "a stack segment that is not present"
	movl	$ABSENT_SELECTOR, %eax
at_absent_stack:
	movl	%eax, %ss
	jmp	provoke_resume

	/* What only ring 0 may do. */
	.macro	privileged name, text, instruction:vararg
	provoke	\name, 13, 0, "\text"
	xorl	%eax, %eax
at_\name:
	\instruction
	jmp	provoke_resume
	.endm

	privileged sti, "sti", sti
	privileged clts, "clts", clts
	privileged lgdt, "lgdt", lgdt zero_to_one
	privileged lidt, "lidt", lidt zero_to_one
	privileged lldt, "lldt", lldt %ax
	privileged ltr, "ltr", ltr %ax
	privileged lmsw, "lmsw", lmsw %ax
	privileged from_cr3, "mov from CR3", movl %cr3, %eax
	privileged to_cr0, "mov to CR0", movl %eax, %cr0
	privileged to_cr3, "mov to CR3", movl %eax, %cr3
	privileged to_dr7, "mov to DR7", movl %eax, %dr7
	privileged invlpg, "invlpg", invlpg zero_to_one
	privileged wbinvd, "wbinvd", wbinvd
	privileged sysenter, "sysenter", sysenter
	privileged string_io, "insb", insb

	/* The Switcher's own segments are in our GDT, and are not ours. */
	provoke	host_data, 13, LGUEST_DS, "the Switcher's data segment"
	movl	$LGUEST_DS, %eax
at_host_data:
	movl	%eax, %fs
	jmp	provoke_resume

	provoke	host_code, 13, LGUEST_CS, "a jump to the Switcher's code segment"
at_host_code:
	ljmp	$LGUEST_CS, $provoke_resume

	provoke	beyond_gdt, 13, 0x100, "a selector behind the GDT"
	movl	$0x101, %eax
at_beyond_gdt:
	movl	%eax, %fs
	jmp	provoke_resume

	/* A gate of DPL 0: the error code is its place in the IDT, with the IDT bit. */
	provoke	low_gate, 13, (0x30*8+2), "int 0x30, a gate we may not call"
at_low_gate:
	int	$0x30
	jmp	provoke_resume

	provoke	read_hole, 14, 0, "read where nothing is", HOLE
at_read_hole:
	movl	HOLE, %eax
	jmp	provoke_resume

	provoke	write_hole, 14, 2, "write where nothing is", HOLE + 4
at_write_hole:
	movl	%eax, HOLE + 4
	jmp	provoke_resume

	provoke	write_protected, 14, 3, "write a read-only page", READ_ONLY
at_write_protected:
	movl	%eax, READ_ONLY
	jmp	provoke_resume

	.set	at_fetch_hole, HOLE + 8
	provoke	fetch_hole, 14, 0, "jump where nothing is", HOLE + 8
	movl	$at_fetch_hole, %eax
	jmp	*%eax

	/* Unmasked, a division by zero waits for the next waiting instruction. */
	provoke	x87, 16, 0, "x87 division by zero"
	fninit
	fldcw	unmasked_control
	fld1
	fldz
	fdivrp	%st, %st(1)
at_x87:
	fwait
	jmp	provoke_resume

	provoke	simd, 19, 0, "SSE division by zero"
	ldmxcsr	unmasked_mxcsr
	movss	float_one, %xmm0
at_simd:
	divss	float_zero, %xmm0
	jmp	provoke_resume

	provoke_user user_hypercall, 13, (HYPERCALL_VECTOR*8+2), "ring 3: a hypercall"
at_user_hypercall:
	int	$HYPERCALL_VECTOR
	end_user

	provoke_user user_cli, 13, 0, "ring 3: cli"
at_user_cli:
	cli
	end_user

	provoke_user user_out, 13, 0, "ring 3: out"
at_user_out:
	outb	%al, $0x80
	end_user

	provoke_user user_sysenter, 13, 0, "ring 3: sysenter"
at_user_sysenter:
	sysenter
	end_user

	provoke_user user_breakpoint, 3, 0, "ring 3: int3"
	int3
at_user_breakpoint:
	end_user

	provoke_user user_reads_kernel, 14, 5, "ring 3: read the kernel", cr2=provoke_stack
	movl	$USER_DS, %eax
	movl	%eax, %ds
at_user_reads_kernel:
	movl	provoke_stack, %eax
	end_user

	provoke_user user_writes_hole, 14, 6, "ring 3: write where nothing is", cr2=HOLE
	movl	$USER_DS, %eax
	movl	%eax, %ds
at_user_writes_hole:
	movl	%eax, HOLE
	end_user

	provoke_user user_writes_protected, 14, 7, "ring 3: write a read-only page", cr2=USER_READ_ONLY
	movl	$USER_DS, %eax
	movl	%eax, %ds
at_user_writes_protected:
	movl	%eax, USER_READ_ONLY
	end_user

	provoke_user unaligned, 17, 0, "ring 3: alignment check", eflags=0x40202
	movl	$USER_DS, %eax
	movl	%eax, %ds
at_unaligned:
	movl	provoke_user_stack - 7, %eax
	end_user

/* [G90] Back from a handler, or from a provocation that did not provoke. */
	.globl	provoke_resume
provoke_resume:
	movl	%ss, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	provoke_stack, %esp
	popal
	ret

/* [G95] uint32_t sse_status(void): MXCSR, as the last SSE instruction left it. */
	.globl	sse_status
sse_status:
	pushl	%eax
	stmxcsr	(%esp)
	popl	%eax
	ret

/* [G100] Nothing of what was provoked may spoil what comes next. */
	.globl	provoke_recover
provoke_recover:
	pushl	%ebx
	movl	$LHCALL_TS, %eax
	xorl	%ebx, %ebx
	int	$HYPERCALL_VECTOR
	fninit
	ldmxcsr	default_mxcsr
	xorl	%eax, %eax
	movl	%eax, %fs
	popl	%ebx
	ret

/*
 * [G110] Not faults, although ring 1 may do none of it: the Host skips CLI, ports read all
 * ones and swallow what is written, and leaf 0 of CPUID names a vendor.
 */
	.globl	emulated_ok
emulated_ok:
	pushl	%ebx
	cli
	xorl	%eax, %eax
	movw	$0x1234, %dx
	inb	%dx, %al
	cmpl	$0xFF, %eax
	jne	1f
	xorl	%eax, %eax
	inw	$0x60, %ax
	cmpl	$0xFFFF, %eax
	jne	1f
	inl	%dx, %eax
	cmpl	$-1, %eax
	jne	1f
	outb	%al, $0x80
	xorl	%eax, %eax
	xorl	%ebx, %ebx
	cpuid
	testl	%ebx, %ebx
	jz	1f
	popl	%ebx
	movl	$1, %eax
	ret
1:	popl	%ebx
	xorl	%eax, %eax
	ret

	.section .rodata.provocations
provocations_end:

	.section .rodata
	.balign	4
zero_to_one:
	.long	0, 1
unmasked_control:
	.word	0x037B, 0
default_mxcsr:
	.long	0x1F80
unmasked_mxcsr:
	.long	0x1D80
float_zero:
	.float	0
float_one:
	.float	1

	.bss
	.balign	4
provoke_stack:
	.space	4

	.section .user.data, "aw"
	.balign	16
	.space	64
provoke_user_stack:
	.space	16

	.section .note.GNU-stack, "", @progbits
