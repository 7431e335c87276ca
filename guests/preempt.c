/*
 * Never gives the CPU up, and is interrupted all the same: it spins at ring 1, adding up
 * its registers, while a clock that it set by SET_CLOCKEVENT ends each spell and its
 * handler sets it again.  After ticks=N (100 unless told; period=N nanoseconds between
 * them) it says how many came, and on which CPUs' pairs of pages it found itself.  Last it
 * sleeps through a few more in HALT, which no interrupt flag wakes but the Host's.
 */
#include "guest.h"

#define NAPS 3
#define PERIOD_NS 1000000

bool spin(uint32_t until);

volatile uint32_t ticks;

static uint32_t wanted, period, cpus_seen, moves, last_pair;

static void note_cpu(void)
{
	uint32_t pair = current_pair();

	if (last_pair && pair != last_pair)
		moves++;
	last_pair = pair;
	cpus_seen |= 1u << pair_number(pair);
}

static void timer(struct trap_frame *frame)
{
	if (lguest.irq_enabled & EFLAGS_IF_BIT)
		fail("interrupts were on in a handler, at 0x%x", frame->eip);
	ticks++;
	note_cpu();
	if (ticks < wanted)
		hypercall(LHCALL_SET_CLOCKEVENT, period, 0, 0, 0);
}

/* Waits as an idle loop does: virtual interrupts off, and back by way of the handler. */
static const char *nap(void)
{
	uint32_t before = ticks;

	interrupts_off();
	hypercall(LHCALL_SET_CLOCKEVENT, period, 0, 0, 0);
	hypercall(LHCALL_HALT, 0, 0, 0, 0);
	if (ticks != before + 1)
		return because("woke from HALT after %u interrupts", ticks - before);
	if (!(lguest.irq_enabled & EFLAGS_IF_BIT))
		return "HALT came back with interrupts off";
	return NULL;
}

const char *guest_main(void)
{
	wanted = option("ticks", 100);
	period = option("period", PERIOD_NS);
	set_gate(TIMER_VECTOR, GATE_INTERRUPT, 0, timer);
	lguest.blocked_interrupts = 0;
	interrupts_on();
	hypercall(LHCALL_SET_CLOCKEVENT, period, 0, 0, 0);
	if (!spin(wanted))
		return because("a register changed while spinning, after %u interrupts", ticks);
	print("%u clock interrupts while spinning.\n", ticks);
	for (unsigned int i = 0; i < NAPS; i++) {
		const char *problem = nap();

		if (problem)
			return problem;
	}
	print("%u more while asleep.\n", ticks - wanted);
	print("CPUs seen: mask 0x%x, %u moves between them.\n", cpus_seen, moves);
	if (ticks != wanted + NAPS)
		return because("%u interrupts instead of %u", ticks, wanted + NAPS);
	return NULL;
}
