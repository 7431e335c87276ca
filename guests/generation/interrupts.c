/*
 * Virtual interrupts, all of them the clock's: that they come when they may and not before, and
 * that a Guest which only stores a word, and never asks, gets them all the same.
 */
#include "checks.h"

#define SOON 50000 /* nanoseconds */
#define LATE 4000000000u
#define CHAIN 5

static volatile uint32_t ticks;
static uint32_t chain, nested, handler_trouble, time_before[2];

extern const uint8_t noirq_begin[], noirq_end[];

static bool wait_for(volatile uint32_t *word, uint32_t value)
{
	uint64_t begin = rdtsc();

	while (*word != value)
		if (rdtsc() - begin > FOR_EVER)
			return false;
	return true;
}

static void wait_a_while(void)
{
	uint64_t begin = rdtsc();

	while (rdtsc() - begin < A_WHILE)
		;
}

static void set_clock(uint32_t nanoseconds)
{
	hypercall(LHCALL_SET_CLOCKEVENT, nanoseconds, 0, 0, 0);
}

/* Until the Host says that something waits; before 2.6.31 it has no word for it. */
static bool until_pending(void)
{
#if HAS_IRQ_PENDING
	return wait_for(&lguest.irq_pending, EFLAGS_IF_BIT);
#else
	wait_a_while();
	return true;
#endif
}

static void tick(struct trap_frame *frame)
{
	ticks++;
	if (lguest.irq_enabled & EFLAGS_IF_BIT)
		handler_trouble = 1;
	if (!(frame->eflags & EFLAGS_IF))
		handler_trouble = 2;
	if (lguest.time_sec < time_before[0] ||
	    (lguest.time_sec == time_before[0] && lguest.time_nsec < time_before[1]))
		handler_trouble = 3;
	time_before[0] = lguest.time_sec;
	time_before[1] = lguest.time_nsec;
	if (!chain)
		return;
	/* The next one comes while this handler has interrupts off, and nobody will ask. */
	if (frame->eip >= (uint32_t)noirq_begin && frame->eip < (uint32_t)noirq_end)
		nested++;
	chain--;
	set_clock(1);
	if (!until_pending())
		handler_trouble = 4;
	/* Now the page of the iret must be fetched again, so the Host comes by right there. */
	tables_flush();
}

static const char *trouble(void)
{
	static const char *const texts[] = {
	    NULL,
	    "a handler began with interrupts on",
	    "an interrupt came from where IF was off",
	    "time went back",
	    "irq_pending was never set while an interrupt waited",
	};

	return texts[handler_trouble];
}

static const char *ticks_are(uint32_t should, const char *when)
{
	if (trouble())
		return trouble();
	return ticks == should ? NULL : because("%s: %u interrupts instead of %u", when, ticks, should);
}

/* Sets the clock while interrupts are forbidden in one way, and then allows them by a store. */
static const char *held_back(volatile uint32_t *word, uint32_t no, uint32_t yes, const char *how)
{
	uint32_t before = ticks;
	const char *problem;

	*word = no;
	set_clock(SOON);
	wait_a_while();
	problem = ticks_are(before, how);
	if (problem)
		return problem;
	*word = yes;
	if (!wait_for(&ticks, before + 1))
		return because("%s: it never came after a plain store", how);
	return ticks_are(before + 1, how);
}

#if HAS_IRQ_PENDING
/* With the Host's word set, asking brings the interrupt at once, and clears the word. */
static const char *asked_for(void)
{
	uint32_t before = ticks;

	lguest.irq_enabled = 0;
	set_clock(SOON);
	if (!until_pending())
		return "irq_pending stays 0 while an interrupt waits";
	if (ticks != before)
		return "an interrupt came while IF was off";
	lguest.irq_enabled = EFLAGS_IF_BIT;
	send_interrupts();
	if (ticks != before + 1)
		return because("SEND_INTERRUPTS brought %u interrupts", ticks - before);
	return lguest.irq_pending ? "irq_pending stays set when nothing waits" : NULL;
}
#endif

/* An iret to where IF is off stores a word that is not zero: bit 1 of EFLAGS is always set. */
static void skip_ud2(struct trap_frame *frame)
{
	frame->eip += 2;
}

static const char *only_bit_9(void)
{
	uint32_t before = ticks;
	const char *problem;

	set_gate(6, GATE_INTERRUPT, 0, skip_ud2);
	lguest.irq_enabled = 0;
	__asm__ volatile("ud2" : : : "memory");
	if (!lguest.irq_enabled || (lguest.irq_enabled & EFLAGS_IF_BIT))
		return because("irq_enabled is 0x%x behind an iret with IF off", lguest.irq_enabled);
	set_clock(SOON);
	wait_a_while();
	problem = ticks_are(before, "irq_enabled without bit 9");
	lguest.irq_enabled = EFLAGS_IF_BIT;
	if (!problem && !wait_for(&ticks, before + 1))
		problem = "it never came after that";
	return problem;
}

const char *check_interrupts(void)
{
	const char *problem;

	set_gate(TIMER_VECTOR, GATE_INTERRUPT, 0, tick);
	lguest.irq_enabled = EFLAGS_IF_BIT;
	problem = held_back(&lguest.blocked_interrupts, 1, 0, "while masked");
	/* A later call replaces an earlier one. */
	set_clock(LATE);
	set_clock(SOON);
	if (!problem && !wait_for(&ticks, 2))
		problem = "the clock never rang";
	if (!problem)
		problem = held_back(&lguest.irq_enabled, 0, EFLAGS_IF_BIT, "with IF off");
#if HAS_IRQ_PENDING
	if (!problem)
		problem = asked_for();
#endif
	if (!problem)
		problem = only_bit_9();
	set_clock(0);
	return problem;
}

/*
 * A chain of interrupts, each raised in the handler of the one before it: they must all come,
 * and none may nest its frame on that of another, which happens where one is delivered between
 * the store that turns IF on and the iret behind it.
 */
const char *check_window(void)
{
	uint32_t before = ticks;

	chain = CHAIN;
	lguest.irq_enabled = EFLAGS_IF_BIT;
	set_clock(SOON);
	if (!wait_for(&ticks, before + CHAIN + 1))
		return because("only %u of %u interrupts came out of handlers", ticks - before, CHAIN + 1);
	if (nested)
		return because("%u interrupts were nested in an iret", nested);
	return trouble();
}

/* Idle as kernels are: HALT with IF off, and the way back is through a handler's iret. */
const char *check_sleep(void)
{
	uint32_t before = ticks;

	lguest.irq_enabled = 0;
	set_clock(SOON);
	hypercall(LHCALL_HALT, 0, 0, 0, 0);
	if (ticks != before + 1)
		return because("woke from HALT after %u interrupts", ticks - before);
	if (!(lguest.irq_enabled & EFLAGS_IF_BIT))
		return "HALT came back with interrupts off";
	/* One that is due already lets nobody sleep. */
	lguest.irq_enabled = 0;
	set_clock(1);
	if (!until_pending())
		return "irq_pending stays 0 while an interrupt waits";
	hypercall(LHCALL_HALT, 0, 0, 0, 0);
	if (ticks != before + 2)
		return because("HALT with one due: %u interrupts", ticks - before);
	lguest.irq_enabled = 0;
	return trouble();
}
