/*
 * A batch of conformance cases in memory: what the monitor (native/conformance),
 * which plays them at ring 0, and the Python that prepares and reads them agree about.
 *
 * Memory is flat and physical.  The monitor and the header lie in the second
 * megabyte, the arena on which the cases play at 4 MiB, and from 8 MiB on, wherever
 * Python wants them, the case table and all it points to.
 */
#ifndef KVMHOST_ABI_CONFORM_H
#define KVMHOST_ABI_CONFORM_H

#include <stdint.h>

#define CONFORM_TEXT 0x00100000 /* the monitor, and where it starts */
#define CONFORM_TEXT_SIZE 0x4000
#define CONFORM_HEADER 0x00104000
#define CONFORM_STACK_END 0x00106000
#define CONFORM_SHADOW 0x00140000 /* what the arena must look like if nothing is written */
#define CONFORM_ARENA 0x00400000
#define CONFORM_ARENA_PAGES 40
#define CONFORM_PAGE 0x1000
#define CONFORM_COLLECT 0x0040F000 /* the arena page with the collector and the way into a case */
#define CONFORM_SAVE 0x00410000 /* the arena page into which the collector writes */
#define CONFORM_BATCH 0x00800000

/* Ring 0 segments, at the same place in the monitor's GDT and in every arena's. */
#define CONFORM_CS 0x60
#define CONFORM_DS 0x68
#define CONFORM_TSS 0x80

#define CONFORM_PORT_END 0xF4 /* the batch is over */
#define CONFORM_PORT_EXTERNAL 0xF5 /* an external case begins, and ends: see conform_saved.phase */

#define CONFORM_MAGIC 0x6B434631
#define CONFORM_VERSION 1

/* conform_header.state */
#define CONFORM_IDLE 0
#define CONFORM_SETUP 1 /* the current case is being set up */
#define CONFORM_RUNNING 2
#define CONFORM_DONE 3

/* conform_result.outcome; a runner that ends the engine says one of them in header.reason. */
#define CONFORM_NOTHING 0
#define CONFORM_TRAP 1
#define CONFORM_SHUTDOWN 2
#define CONFORM_TIMEOUT 3
#define CONFORM_REPORT 4
#define CONFORM_BAD_SETUP 5

/* conform_case.flags */
#define CONFORM_EXTERNAL 1 /* leave by CONFORM_PORT_EXTERNAL before and after */

/* conform_saved.phase */
#define CONFORM_PHASE_START 1
#define CONFORM_PHASE_END 2

#define CONFORM_STACK_WORDS 8

struct conform_header {
	uint32_t magic;
	uint32_t version;
	uint32_t cases; /* address of the first conform_case */
	uint32_t count;
	uint32_t current; /* which case is being played; count when all are over */
	uint32_t state;
	uint32_t reason; /* set by the runner before it starts an engine again that it ended */
	uint32_t loaded; /* the template that arena and shadow come from, 0 for none */
	uint32_t stale[2]; /* pages of the arena or the shadow that differ from it */
	uint32_t end; /* of the batch in memory */
	uint32_t msrs_set; /* how many of the current case's are to be put back */
};

struct conform_patch {
	uint32_t address;
	uint32_t size;
	uint32_t data;
};

struct conform_watch {
	uint32_t address;
	uint32_t size;
};

struct conform_msr {
	uint32_t number;
	uint32_t low;
	uint32_t high;
	uint32_t old_low; /* filled in by the monitor */
	uint32_t old_high;
};

/* An LGDT or LIDT operand, in words so that no packing is needed. */
struct conform_table {
	uint16_t limit, base_low, base_high, pad;
};

/* The order from gs to eax is that in which the way into a case pops them. */
struct conform_case {
	uint32_t template;
	uint32_t flags;
	uint32_t result;
	uint32_t patches, patch_count;
	uint32_t watches, watch_count;
	uint32_t msrs, msr_count;
	struct conform_table gdt, idt;
	uint32_t tr, ldtr;
	uint32_t cr0, cr2, cr3, cr4;
	uint32_t dr[4], dr6, dr7;
	uint32_t gs, fs, es, ds;
	uint32_t edi, esi, ebp, unused, ebx, edx, ecx, eax;
	uint32_t eip, cs, eflags, esp, ss;
};

/* What the collector finds. */
struct conform_saved {
	uint32_t phase;
	uint32_t flags; /* of the case */
	uint32_t eflags; /* as the handler's first instruction found them */
	uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi;
	uint32_t es, cs, ss, ds, fs, gs;
	uint32_t cr0, cr2, cr3, cr4;
	uint32_t dr[4], dr6, dr7;
	struct conform_table gdt, idt;
	uint32_t tr, ldtr;
	uint32_t stack_words; /* how many of the next are valid: the stack's page may end */
	uint32_t stack[CONFORM_STACK_WORDS]; /* from ESP upwards: the vector that the stub pushed is first */
};

/* Followed by the bytes of the case's watches, without gaps. */
struct conform_result {
	uint32_t outcome;
	uint32_t changed[2]; /* arena pages that differ from the start */
	uint32_t vector, error, eip; /* CONFORM_BAD_SETUP: the fault */
	struct conform_saved saved;
};

/* The save page: what the collector writes, and further up the stack into a case. */
#define CONFORM_LAUNCH 0x800 /* a copy of the case from gs on, on which ESP stands */
#define CONFORM_LAUNCH_CASE 0x900 /* a copy of the case */
#define CONFORM_INNER 0xA00 /* a start at ring 0: esp, ss for LSS, then eip, cs for a far JMP */

#endif
