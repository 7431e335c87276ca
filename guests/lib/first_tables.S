/*
 * [G19] The directories that a kernel of 3.1 or later brings along: low memory is seen one to
 * one, and once more from PAGE_OFFSET on.  A Host tells the formats apart by the first
 * entry, for a two-level one carries rights and a PAE one nothing but Present.
 */
#include "asm_offsets.h"
#include "generation.h"

#if KERNEL_BASE && !BORN_WITH_TABLES
#define FIRST_TABLES (FIRST_BYTES / PAGE_BYTES * ENTRY_BYTES / PAGE_BYTES)

	.data
	.balign	PAGE_BYTES
#if PAE
first_middle:
	.set	n, 0
	.rept	FIRST_TABLES
	.long	first_tables - KERNEL_BASE + n * PAGE_BYTES + FIRST_PDE_FLAGS, 0
	.set	n, n + 1
	.endr
	.balign	PAGE_BYTES
	.globl	first_directory
first_directory:
	.long	first_middle - KERNEL_BASE + 1, 0
	.long	0, 0, 0, 0
	.long	first_middle - KERNEL_BASE + 1, 0
#else
	.globl	first_directory
first_directory:
	.set	copy, 0
	.rept	2
	.org	first_directory + copy * (KERNEL_BASE >> 22 << 2)
	.set	n, 0
	.rept	FIRST_TABLES
	.long	first_tables - KERNEL_BASE + n * PAGE_BYTES + FIRST_PDE_FLAGS
	.set	n, n + 1
	.endr
	.set	copy, copy + 1
	.endr
#endif
	.balign	PAGE_BYTES

	.bss
	.balign	PAGE_BYTES
	/* Filled in by _start. */
	.globl	first_tables
first_tables:
	.space	FIRST_TABLES * PAGE_BYTES
#endif

	.section .note.GNU-stack, "", @progbits
