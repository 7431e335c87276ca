/*
 * [B50] Programs for a floor VM: flat 32-bit ring 0, no paging, linked to where they start.
 *
 * Each leaves the VM by one thing only, for ever.  The symbols tell where one begins and the
 * next one ends; every program is copied to FLOOR_TEXT by itself, so none may name an
 * absolute address of its own.
 */
#include "bench_offsets.h"

	.macro PROGRAM name
	.globl	program_\name
program_\name:
	.endm

	.text
	PROGRAM port
1:	out	%al, $FLOOR_PORT
	jmp	1b

	PROGRAM mmio
	mov	$FLOOR_MMIO, %ebx
1:	mov	(%ebx), %eax
	jmp	1b

	PROGRAM mmio_write
	mov	$FLOOR_MMIO, %ebx
1:	mov	%eax, (%ebx)
	jmp	1b

	PROGRAM hlt
1:	hlt
	jmp	1b

	/* [B60] CPUID never comes outside: KVM answers it.  So a thousand of them stand between
	 * two exits, and the same without them is what is subtracted. */
	PROGRAM cpuid
1:	mov	$1000, %esi
2:	xor	%eax, %eax
	xor	%ecx, %ecx
	cpuid
	dec	%esi
	jnz	2b
	out	%al, $FLOOR_PORT
	jmp	1b

	PROGRAM no_cpuid
1:	mov	$1000, %esi
2:	xor	%eax, %eax
	xor	%ecx, %ecx
	dec	%esi
	jnz	2b
	out	%al, $FLOOR_PORT
	jmp	1b

	/* [B70] With interrupts on, a window that was asked for is open at once. */
	PROGRAM window
	sti
1:	nop
	jmp	1b

	PROGRAM end
