/*
 * [B80] The Guest that is timed.  It waits in HALT for a command, does one kind of trap so
 * many times between two readings of the time-stamp counter, and waits again.
 */
#include "timed.h"

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

static void counted(struct trap_frame *frame)
{
	(void)frame;
	command.interrupts++;
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

/* What waits in the ring at the end is done before the counter is read again. */
static void ring_hypercalls(uint32_t loops)
{
	while (loops--)
		hypercall_later(LHCALL_TS, 0, 0, 0, 0);
	hypercall(LHCALL_FLUSH_ASYNC, 0, 0, 0, 0);
}

static uint64_t counted_cycles;

static void system_calls(uint32_t loops)
{
	counted_cycles = user_calls(loops);
}

static void no_loops(uint32_t loops)
{
	(void)loops;
}

static void to_bounced(uint32_t loops)
{
	(void)loops;
	exceptions_bounced();
}

static void to_direct(uint32_t loops)
{
	(void)loops;
	exceptions_direct();
}

/* What is done before the first reading of the counter, and what between the two. */
static const struct {
	routine prepare, run;
} routines[BENCH_ROUTINES] = {
    [BENCH_NOTHING] = {no_loops, nothing},
    [BENCH_HYPERCALL] = {no_loops, hypercalls},
    [BENCH_RING_HYPERCALL] = {no_loops, ring_hypercalls},
    [BENCH_EXCEPTION_DIRECT] = {to_direct, exceptions},
    [BENCH_EXCEPTION_BOUNCED] = {to_bounced, exceptions},
    [BENCH_CPUID] = {no_loops, cpuids},
    [BENCH_PORT] = {no_loops, port_reads},
    [BENCH_USER] = {no_loops, system_calls},
    [BENCH_SPIN] = {no_loops, spin},
    [BENCH_TOUCH] = {touch_prepare, touch},
    [BENCH_FLUSH] = {no_loops, flush},
    [BENCH_SET_PTE] = {no_loops, set_ptes},
    [BENCH_SET_PTE_RING] = {no_loops, queue_ptes},
    [BENCH_SWITCH] = {switch_prepare, switch_roots},
};

static void obey(void)
{
	uint32_t number = command.routine, loops = command.loops;
	uint64_t before;

	if (number >= BENCH_ROUTINES)
		fail("there is no routine %u", number);
	routines[number].prepare(loops);
	counted_cycles = 0;
	before = read_counter();
	routines[number].run(loops);
	command.cycles = read_counter() - before;
	if (counted_cycles)
		command.cycles = counted_cycles;
	command.done = command.number;
}

const char *guest_main(void)
{
	paging_ready(option_given("pae"));
	set_gate(LGUEST_IRQ_BASE + BENCH_IRQ, GATE_INTERRUPT, 0, woken);
	set_gate(LGUEST_IRQ_BASE + BENCH_OTHER_IRQ, GATE_INTERRUPT, 0, counted);
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
