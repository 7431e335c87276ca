/*
 * What the ABI of one release of Linux looks like from inside a Guest.
 *
 * A Guest is built for one release, GENERATION, as a kernel was: what changed between
 * 2.6.24 and 4.13 is decided here, once, by name.  Read by C and by the assembler; the
 * Host has a table of its own (kvmhost/host/abi.py), and the two were written apart on
 * purpose, so that each is a test of the other.
 */
#ifndef GENERATION_H
#define GENERATION_H

#define KERNEL(a, b, c) ((a) << 16 | (b) << 8 | (c))

/* The small Guests that care for none of it speak as 3.1 did. */
#ifndef GENERATION
#define GENERATION KERNEL(3, 1, 0)
#endif

/*
 * Where the image is linked, less where it is loaded: 0, or the PAGE_OFFSET that kernels
 * were linked to.
 */
#ifndef KERNEL_BASE
#define KERNEL_BASE 0
#endif
#define PAGE_OFFSET 0xC0000000

/* Whether its tables are PAE; 2.6.31 was the first that could. */
#ifndef PAE
#define PAE 0
#endif

/* ---- hypercalls ---------------------------------------------------------- */

/* Arguments in EDX, EBX, ECX; then in EBX, ECX, EDX; from 2.6.31 on there is a fourth in ESI. */
#define OLD_ARGUMENTS (GENERATION < KERNEL(2, 6, 30))
#define THREE_ARGUMENTS (GENERATION < KERNEL(2, 6, 31))
#define BY_VMCALL (GENERATION >= KERNEL(2, 6, 30) && GENERATION < KERNEL(2, 6, 34))
/* SEND_INTERRUPTS is a place of its own, which was forgotten when the others went back to int $0x1F. */
#define SENDS_BY_VMCALL (GENERATION >= KERNEL(2, 6, 31) && GENERATION < KERNEL(3, 1, 0))
/* Call 2 is CRASH, with a text and no reason. */
#define CRASH_ONLY (GENERATION < KERNEL(2, 6, 26))
/* The whole GDT goes by one LOAD_GDT, or every entry by a LOAD_GDT_ENTRY. */
#define WHOLE_GDT (GENERATION < KERNEL(2, 6, 30))
#define HAS_NOTIFY (GENERATION < KERNEL(4, 0, 0))

/* ---- struct lguest_data --------------------------------------------------- */

#define HAS_IRQ_PENDING (GENERATION >= KERNEL(2, 6, 31))
#define HAS_PGDIR (GENERATION < KERNEL(3, 1, 0))
/* The window without interrupts is one instruction, the iret. */
#define HAS_NOIRQ_IRET (GENERATION >= KERNEL(4, 1, 0))

/* ---- the first instructions ------------------------------------------------ */

/* Tables were made for us: linear = physical alone, or at PAGE_OFFSET as well. */
#define BORN_WITH_TABLES (GENERATION < KERNEL(3, 1, 0))
#define COPIES_PGDIR (GENERATION < KERNEL(2, 6, 30))
#define HAS_KERNEL_ALIGNMENT (GENERATION >= KERNEL(3, 1, 0))
/* Low bits of the entries in the first directory a kernel makes for itself. */
#if GENERATION < KERNEL(4, 1, 0)
#define FIRST_PDE_FLAGS 0x067
#else
#define FIRST_PDE_FLAGS 0x063
#endif

/*
 * The tables it makes for that reach this far: enough for an image and what it allocates
 * before it has better ones.
 */
#define FIRST_BYTES 0x800000

/* Bytes of an entry, in either format of tables. */
#if PAE
#define ENTRY_BYTES 8
#else
#define ENTRY_BYTES 4
#endif

/* ---- traps and devices ------------------------------------------------------ */

/* A bounced gate lets ring 3 in as the Guest's own descriptor says. */
#define BOUNCED_GATES_KEEP_DPL (GENERATION >= KERNEL(2, 6, 31))
#define SYSCALL_BY_INTERRUPT_GATE (GENERATION >= KERNEL(4, 6, 0))
#define HAS_PCI (GENERATION >= KERNEL(4, 0, 0))

#endif
