/*
 * What the bench's Guest and the bench say to each other: one command at a time, in the first
 * words of the image.  Read by C on both sides and, through cffi, by Python.
 */
#ifndef KVMHOST_BENCH_COMMAND_H
#define KVMHOST_BENCH_COMMAND_H

#include <stdint.h>

#define BENCH_REPORT 0x00100000 /* Guest-physical: the section .report comes first */
#define BENCH_IRQ 1 /* wakes the Guest from HALT: there is a command */
#define BENCH_OTHER_IRQ 2 /* is counted */

/* Routines.  Each does its operation `loops` times. */
#define BENCH_NOTHING 0 /* the loop alone */
#define BENCH_HYPERCALL 1 /* a direct call that finds nothing to do */
#define BENCH_RING_HYPERCALL 2 /* the same, queued in the async ring */
#define BENCH_EXCEPTION_DIRECT 3 /* INT3 through a trap gate: straight to ring 1 */
#define BENCH_EXCEPTION_BOUNCED 4 /* INT3 through an interrupt gate: by way of the Host */
#define BENCH_CPUID 5
#define BENCH_PORT 6 /* IN from a port that is nobody's */
#define BENCH_USER 7 /* INT 0x80 at ring 3, timed there */
#define BENCH_SPIN 8 /* until `stop` is set; loops do not matter */
#define BENCH_TOUCH 9 /* `loops` pages whose entries are made, each read once, after a flush */
#define BENCH_FLUSH 10 /* FLUSH_TLB, user and kernel */
#define BENCH_SET_PTE 11 /* SET_PTE by a direct call */
#define BENCH_SET_PTE_RING 12 /* SET_PTE queued in the async ring */
#define BENCH_SWITCH 13 /* NEW_PGTABLE, round `arguments[0]` roots */
#define BENCH_ROUTINES 14

#define BENCH_MOST_ROOTS 8
#define BENCH_MOST_PAGES 512

struct bench_command {
	uint32_t ready; /* 1 once the Guest waits for its first command */
	uint32_t number; /* of the command; the bench counts it up */
	uint32_t done; /* the number of the last command that is done */
	uint32_t routine; /* BENCH_* */
	uint32_t loops;
	uint32_t arguments[2];
	uint32_t stop; /* set from outside, ends BENCH_SPIN */
	uint32_t running; /* goes up while it spins */
	uint32_t interrupts; /* of BENCH_OTHER_IRQ, so far */
	uint64_t cycles; /* from the first operation to the last, by the time-stamp counter */
};

#endif
