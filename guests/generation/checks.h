/* What the checks of the Guest "generation" share.  Each returns NULL, or what went wrong. */
#ifndef CHECKS_H
#define CHECKS_H

#include "guest.h"

/* Linear addresses that nobody else uses: a program's, and a kernel's own. */
#define USER_WINDOW 0x40000000
#define KERNEL_WINDOW 0xF0000000

/* The kernel's own tables, in use from the second check on. */
extern struct tables swapper;

const char *check_birth(void);
const char *check_init(void);
const char *check_tables(void);
const char *check_ring(void);
const char *check_paging(void);
const char *check_directories(void);
const char *check_segments(void);
const char *check_traps(void);
const char *check_rings(void);
const char *check_cpu(void);
const char *check_module(void);
const char *check_interrupts(void);
const char *check_window(void);
const char *check_sleep(void);

/* Only when the command line has their word, for they need a device. */
const char *check_console(void);
const char *check_block(void);
const char *check_rng(void);
const char *check_net(void);

/* ---- helped by ------------------------------------------------------------ */

/* The compiler is not to think that nothing can be at 0. */
static inline volatile uint32_t *word_at(uint32_t linear)
{
	__asm__("" : "+r"(linear));
	return (volatile uint32_t *)linear;
}

/* The limit of a descriptor in the live GDT, or 0 where ring 1 may see none. */
static inline uint32_t limit_of(uint32_t selector)
{
	uint32_t limit = 0;

	__asm__ volatile("lsl %1, %0" : "+r"(limit) : "r"(selector) : "cc");
	return limit;
}

/* A physical page that holds MARK in its first word. */
uint32_t marked_page(uint32_t mark);

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

/* Half a minute or more on any CPU: only what hangs takes that long. */
#define FOR_EVER ((uint64_t)1 << 36)
/* A few milliseconds: time for the Host to do what it must not. */
#define A_WHILE ((uint64_t)1 << 23)

/* What a program at ring 3 met: the vector that brought it back to ring 1. */
struct met {
	uint32_t vector, error, cr2, eip, eflags, result, frame_end, irq_enabled, cs, ss;
};

/* Runs PROGRAM at ring 3 until it faults or calls `int $0x80` with a result in EAX. */
struct met run_at_ring_3(void (*program)(void));
/* Gates for all of that. */
void ring_3_ready(void);

static inline __attribute__((always_inline)) void user_exit(uint32_t result)
{
	__asm__ volatile("int $0x80" : : "a"(result) : "memory");
}

#endif
