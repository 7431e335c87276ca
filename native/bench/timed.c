/*
 * [B80] The Guest that is timed.  It waits in HALT for a command, does one kind of trap so
 * many times between two readings of the time-stamp counter, and waits again.
 */
#include "guest.h"

#include "command.h"

__attribute__((section(".report"))) volatile struct bench_command command;

static inline uint64_t read_counter(void)
{
	uint32_t low, high;

	__asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

static void woken(struct trap_frame *frame)
{
	(void)frame;
}

/* The loop alone: what every other routine has around its operation. */
static void nothing(uint32_t loops)
{
	while (loops--)
		__asm__ volatile("");
}

static void hypercalls(uint32_t loops)
{
	while (loops--)
		hypercall(LHCALL_FLUSH_ASYNC, 0, 0, 0, 0);
}

static void (*const routines[])(uint32_t loops) = {
    [BENCH_NOTHING] = nothing,
    [BENCH_HYPERCALL] = hypercalls,
};

static void obey(void)
{
	uint32_t routine = command.routine, loops = command.loops;
	uint64_t before;

	command.failed = 0;
	if (routine >= sizeof(routines) / sizeof(routines[0]))
		fail("there is no routine %u", routine);
	before = read_counter();
	routines[routine](loops);
	command.cycles = read_counter() - before;
	command.done = command.number;
}

const char *guest_main(void)
{
	set_gate(LGUEST_IRQ_BASE + BENCH_IRQ, GATE_INTERRUPT, 0, woken);
	lguest.blocked_interrupts = 0;
	command.ready = 1;
	for (;;) {
		/* Woken means: interrupts are on; off again, so that a command cannot come between. */
		interrupts_off();
		if (command.number == command.done)
			hypercall(LHCALL_HALT, 0, 0, 0, 0);
		else
			obey();
	}
}
