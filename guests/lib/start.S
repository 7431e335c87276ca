/*
 * [G10] The first instruction of every Guest here, and the way in and out of its traps.
 *
 * What the CPU believes at _start: ring 1, paging on, every general register
 * zero, so ESP too.  CS is 0x61, DS, ES and SS are 0x69, all flat.  IF is set and
 * stays set; whether an interrupt may come is a word in memory (lguest.irq_enabled),
 * and it says no.
 */
#include "asm_offsets.h"

	.text
	.globl _start
_start:
	movl	$stack_top, %esp
	call	guest_start
	ud2

/*
 * [G20] 256 stubs of 16 bytes, so that the address of one is a multiplication.  Seven
 * vectors bring an error code; the others push a zero to make all frames alike.
 */
	.balign	16
	.globl	trap_stubs
trap_stubs:
	.set	vector, 0
	.rept	IDT_ENTRIES
	.balign	16
	.if	vector != 8 && vector != 10 && vector != 11 && vector != 12 && vector != 13 && vector != 14 && vector != 17
	pushl	$0
	.endif
	pushl	$vector
	jmp	trap_entry
	.set	vector, vector + 1
	.endr

/*
 * [G30] Here the stack holds struct trap_frame from .vector on.  DS and ES may be those
 * of ring 3, and DF may be set: C expects neither.
 */
trap_entry:
	pushal
	pushl	%ds
	pushl	%es
	movl	$GUEST_DS, %eax
	movl	%eax, %ds
	movl	%eax, %es
	cld
	pushl	%esp
	call	trap_dispatch
	addl	$4, %esp
	popl	%es
	popl	%ds
	popal
	addl	$8, %esp
/*
 * [G40] The way back turns virtual interrupts on again as the saved EFLAGS say, and an
 * interrupt delivered between that store and the iret would nest a frame on a
 * stack that is half unwound.  So the Host is told the window, and waits.  The
 * store goes through SS: DS is the interrupted program's.
 */
	pushl	%eax
	movl	12(%esp), %eax
	.globl	noirq_begin, noirq_end
noirq_begin:
	movl	%eax, %ss:lguest
	popl	%eax
	iret
noirq_end:

/*
 * [G50] bool probe(uint32_t linear, uint32_t *value): one load that may fault, and
 * bool poke(uint32_t linear, uint32_t *value): one store.  The fault handler knows
 * both instructions, and goes on at probe_fault.
 */
	.globl	probe, poke, probe_load, probe_store, probe_fault
probe:
	movl	4(%esp), %eax
	movl	8(%esp), %edx
probe_load:
	movl	(%eax), %eax
	movl	%eax, (%edx)
	movl	$1, %eax
	ret
poke:
	movl	4(%esp), %eax
	movl	8(%esp), %edx
	movl	(%edx), %ecx
probe_store:
	movl	%ecx, (%eax)
	movl	$1, %eax
	ret
probe_fault:
	movl	probe_error, %eax
	movl	%eax, (%edx)
	xorl	%eax, %eax
	ret

/*
 * [G55] uint32_t enter_user(void (*program)(void), uint32_t stack): goes down to ring 3.
 * It returns when a handler rewrites its frame to end at user_return, at ring 1:
 * such an iret takes no stack along, so the old one is fetched from memory.
 */
	.globl	enter_user, user_return
enter_user:
	pushal
	movl	%esp, kernel_stack
	movl	36(%esp), %eax
	movl	40(%esp), %edx
	pushl	$USER_DS
	pushl	%edx
	pushfl
	pushl	$USER_CS
	pushl	%eax
	movl	$USER_DS, %eax
	movl	%eax, %ds
	movl	%eax, %es
	iret
user_return:
	movl	%ss, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	kernel_stack, %esp
	popal
	movl	user_result, %eax
	ret

	.bss
kernel_stack:
	.space	4
	.balign	4096
	.space	8192
stack_top:
	.globl	trap_stack_top
	.space	8192
trap_stack_top:

	.section .note.GNU-stack, "", @progbits
