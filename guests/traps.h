/* What traps.c and traps_raise.S agree about: where to fault, and what to expect of it. */
#ifndef TRAPS_H
#define TRAPS_H

/* Linear addresses: nothing at all, a page ring 1 may read, a page ring 3 may read. */
#define HOLE 0x40000000
#define READ_ONLY 0x40001000
#define USER_READ_ONLY 0x40002000
/* A data descriptor of DPL 1 that is not present. */
#define ABSENT_SELECTOR 0xA1

#ifndef __ASSEMBLER__
#include <stdbool.h>
#include <stdint.h>

struct provocation {
	const char *name;
	void (*go)(void);
	uint32_t vector, error, eip, cr2;
};

/* MXCSR, whose low six bits tell which SSE exceptions were met. */
uint32_t sse_status(void);
/* Puts FPU, SSE, TS and FS back after whatever was provoked. */
void provoke_recover(void);
/* Whether the instructions that the Host emulates did what they should. */
bool emulated_ok(void);
#endif

#endif
