/*
 * [G10] The first instruction of every Guest here.
 *
 * What the CPU believes at _start: ring 1, paging on, every general register
 * zero, so ESP too.  CS is 0x61, DS, ES and SS are 0x69, all flat.  IF is set and
 * stays set; whether an interrupt may come is a word in memory (lguest.irq_enabled),
 * and it says no.  Linear is physical, so a Guest that is linked to PAGE_OFFSET
 * subtracts it from every address.
 */
#include "asm_offsets.h"
#include "generation.h"
#include "hypercall.h"

	.text
	.globl	_start
_start:
	/* [G12] Somebody may want to know what was in the registers. */
	movl	%eax, born_with - KERNEL_BASE
	movl	%ebx, born_with - KERNEL_BASE + 4
	movl	%ecx, born_with - KERNEL_BASE + 8
	movl	%edx, born_with - KERNEL_BASE + 12
	movl	%esi, born_with - KERNEL_BASE + 16
	movl	%edi, born_with - KERNEL_BASE + 20
	movl	%ebp, born_with - KERNEL_BASE + 24
	movl	%esp, born_with - KERNEL_BASE + 28

#if KERNEL_BASE && !BORN_WITH_TABLES
	/*
	 * [G14] From 3.1 on nobody makes tables for a kernel, so it does before it asks for
	 * anything: all entries of the lowest tables, one to one.  The directories above
	 * them came with the image.
	 */
	movl	$(first_tables - KERNEL_BASE), %edi
	movl	$0x003, %eax
	movl	$(FIRST_BYTES / PAGE_BYTES), %ecx
1:	movl	%eax, (%edi)
	addl	$ENTRY_BYTES, %edi
	addl	$PAGE_BYTES, %eax
	loop	1b
#endif

	/*
	 * [G16] INIT tells the Host where the shared words are.  Before it the Host cannot fake
	 * an interrupt flag, take a queued hypercall or reflect a fault.
	 */
	movl	$LHCALL_LGUEST_INIT, %eax
	movl	$(lguest - KERNEL_BASE), ARGUMENT_1
	HYPERCALL

	/* [G18] Then the addresses become virtual, by each generation in its own way. */
#if KERNEL_BASE && COPIES_PGDIR
	/* 2.6.24 finds the tables it was born with, and shows itself the first 128 MiB twice. */
	movl	lguest + DATA_2624_pgdir - KERNEL_BASE, %esi
	leal	(KERNEL_BASE >> 22 << 2)(%esi), %edi
	movl	$32, %ecx
	rep movsl
#elif KERNEL_BASE && !BORN_WITH_TABLES
	movl	$LHCALL_NEW_PGTABLE, %eax
	movl	$(first_directory - KERNEL_BASE), ARGUMENT_1
	HYPERCALL
#endif
	movl	$stack_top, %esp
	movl	$guest_start, %eax
	call	*%eax
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
 * store goes through SS: DS is the interrupted program's.  4.1 got along without a
 * register, and its window is the iret alone.
 *
 * In a kernel the iret has a page of its own: when that has to be fetched, the Host comes
 * by just there.
 */
	jmp	trap_return
#if HAS_NOIRQ_IRET
#define RETURN_BYTES 11
#else
#define RETURN_BYTES 12
#endif
#if KERNEL_BASE
	.balign	PAGE_BYTES
	.skip	PAGE_BYTES - RETURN_BYTES
#endif
	.globl	noirq_begin, noirq_end, noirq_iret
trap_return:
#if HAS_NOIRQ_IRET
	pushl	8(%esp)
	popl	%ss:lguest
noirq_begin:
noirq_iret:
#else
	pushl	%eax
	movl	12(%esp), %eax
noirq_begin:
	movl	%eax, %ss:lguest
	popl	%eax
noirq_iret:
#endif
	iret
noirq_end:
#if KERNEL_BASE
	.balign	PAGE_BYTES
#endif

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
	.globl	born_with
born_with:
	.space	32
kernel_stack:
	.space	4
	.balign	4096
	.space	8192
stack_top:
	.globl	trap_stack_top
	.space	8192
trap_stack_top:

	.section .note.GNU-stack, "", @progbits
