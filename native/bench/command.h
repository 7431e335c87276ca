/*
 * What the bench's Guest and the bench say to each other: one command at a time, in the first
 * words of the image.  Read by C on both sides and, through cffi, by Python.
 */
#ifndef KVMHOST_BENCH_COMMAND_H
#define KVMHOST_BENCH_COMMAND_H

#include <stdint.h>

#define BENCH_REPORT 0x00100000 /* Guest-physical: the section .report comes first */
#define BENCH_IRQ 1 /* wakes the Guest from HALT: there is a command */

/* Routines. */
#define BENCH_NOTHING 0 /* the loop alone */
#define BENCH_HYPERCALL 1 /* a direct call that finds nothing to do */

struct bench_command {
	uint32_t ready; /* 1 once the Guest waits for its first command */
	uint32_t number; /* of the command; the bench counts it up */
	uint32_t done; /* the number of the last command that is done */
	uint32_t routine; /* BENCH_* */
	uint32_t loops;
	uint32_t arguments[4];
	uint32_t failed; /* not 0: the routine could not do it, and this is why */
	uint64_t cycles; /* from the first operation to the last, by the time-stamp counter */
};

#endif
