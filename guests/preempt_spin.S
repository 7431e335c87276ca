/*
 * [G140] bool spin(uint32_t until): adds up five registers, for ever.
 *
 * No hypercall, no fault, nothing that would leave the Guest: only an interrupt
 * ends a spell here.  ECX holds the number of ticks to wait for, the others
 * constants whose sum is known to the assembler.
 */
#define IN_EBX 0x5EED0001
#define IN_EDX 0x13579BDF
#define IN_ESI 0x2468ACE0
#define IN_EDI 0x0F1E2D3C
#define IN_EBP 0x77665544

	.text
	.globl	spin
spin:
	pushal
	movl	36(%esp), %ecx
	movl	$IN_EBX, %ebx
	movl	$IN_EDX, %edx
	movl	$IN_ESI, %esi
	movl	$IN_EDI, %edi
	movl	$IN_EBP, %ebp
1:	leal	(%ebx,%edx), %eax
	addl	%esi, %eax
	addl	%edi, %eax
	addl	%ebp, %eax
	cmpl	$((IN_EBX + IN_EDX + IN_ESI + IN_EDI + IN_EBP) & 0xFFFFFFFF), %eax
	jne	2f
	cmpl	%ecx, ticks
	jb	1b
	popal
	movl	$1, %eax
	ret
2:	popal
	xorl	%eax, %eax
	ret

	.section .note.GNU-stack, "", @progbits
