/*
 * Raises every exception that a ring-1 kernel can raise, each three times: with an
 * interrupt gate (the Switcher bounces it to the Host, which reflects it) while virtual
 * interrupts are on and while they are off, and with a trap gate (which the CPU may take
 * without the Host).  Every time it checks vector, error code, saved EIP, CR2 and the
 * faked interrupt flag, and survives.
 */
#include "guest.h"

#include "traps.h"

#define HOLE_PAGES 3
#define IDENTITY_BYTES 0x400000
#define MXCSR_ZE 0x0004
#define MXCSR_ZM 0x0200

extern const struct provocation provocations[], provocations_end[];
extern const uint8_t provoke_resume[];

static struct {
	uint32_t count, vector, error, eip, eflags, cr2, irq_enabled, mxcsr;
} seen;

static void caught(struct trap_frame *frame)
{
	seen.count++;
	seen.vector = frame->vector;
	seen.error = frame->error;
	seen.eip = frame->eip;
	seen.eflags = frame->eflags;
	seen.irq_enabled = lguest.irq_enabled;
	seen.cr2 = lguest.cr2;
	frame->eip = (uint32_t)provoke_resume;
	frame->cs = GUEST_CS;
	frame->eflags &= ~(EFLAGS_TF | EFLAGS_NT | EFLAGS_AC);
}

/* What was wrong with one way of raising it, or NULL. */
static const char *attempt(const struct provocation *p, uint32_t type, bool interrupts)
{
	set_gate(p->vector, type, 3, caught);
	seen.count = 0;
	lguest.irq_enabled = interrupts ? EFLAGS_IF_BIT : 0;
	p->go();
	seen.mxcsr = p->vector == 19 ? sse_status() : 0;
	provoke_recover();
	if (!seen.count)
		return "nothing happened";
	if (seen.vector == SYSCALL_VECTOR)
		return "no fault";
	if (seen.count != 1 || seen.vector != p->vector)
		return because("vector %u came %u times", seen.vector, seen.count);
	if (seen.error != p->error)
		return because("error code 0x%x instead of 0x%x", seen.error, p->error);
	if (seen.eip != p->eip)
		return because("EIP 0x%x instead of 0x%x", seen.eip, p->eip);
	if (p->vector == 14 && seen.cr2 != p->cr2)
		return because("CR2 0x%x instead of 0x%x", seen.cr2, p->cr2);
	if (type == GATE_TRAP)
		return seen.irq_enabled & EFLAGS_IF_BIT ? NULL : "a trap gate turned interrupts off";
	if (seen.irq_enabled & EFLAGS_IF_BIT)
		return "an interrupt gate left interrupts on";
	if (!(seen.eflags & EFLAGS_IF) == interrupts)
		return because("the saved IF is %u", !interrupts);
	return lguest.irq_enabled & EFLAGS_IF_BIT ? (interrupts ? NULL : "IF came on")
						  : (interrupts ? "IF stayed off" : NULL);
}

/* Pages to fault on: one that is not there, one to read for ring 1, one to read for ring 3. */
static void prepare(void)
{
	struct tables tables = tables_create(false);

	set_descriptor(ABSENT_SELECTOR >> 3, 0, 0x0000FFFF, 0x00CF3300);
	user_segments();
	tables_ram(&tables, IDENTITY_BYTES);
	tables_map_user(&tables);
	tables_map(&tables, READ_ONLY, page_alloc(), PTE_P);
	tables_map(&tables, USER_READ_ONLY, page_alloc(), PTE_P | PTE_USER);
	tables_use(&tables);
	set_trap_stack();
	for (uint32_t vector = 0; vector < 20; vector++)
		set_gate(vector, GATE_INTERRUPT, 0, caught);
	set_gate(SYSCALL_VECTOR, GATE_TRAP, 3, caught);
}

/*
 * An emulated CPU may know neither the alignment check nor unmasked SSE exceptions.  Said
 * only when this one let the access pass up to the system call behind it, or noted a
 * division by zero that it was told not to mask, and went on.
 */
static bool cannot_be_shown(const struct provocation *p)
{
	if (p->vector == 17)
		return seen.count == 1 && seen.vector == SYSCALL_VECTOR;
	if (p->vector == 19)
		return seen.count == 0 && (seen.mxcsr & MXCSR_ZE) && !(seen.mxcsr & MXCSR_ZM);
	return false;
}

const char *guest_main(void)
{
	uint32_t good = 0, bad = 0, absent = 0;

	prepare();
	for (const struct provocation *p = provocations; p < provocations_end; p++) {
		const char *problem = attempt(p, GATE_INTERRUPT, true);

		if (!problem)
			problem = attempt(p, GATE_INTERRUPT, false);
		if (!problem)
			problem = attempt(p, GATE_TRAP, true);
		if (problem && cannot_be_shown(p)) {
			print("%2u %s: not demonstrable here, the CPU let it pass\n", p->vector, p->name);
			absent++;
			continue;
		}
		print("%2u %s: %s\n", p->vector, p->name, problem ? problem : "ok");
		if (problem)
			bad++;
		else
			good++;
	}
	if (!emulated_ok())
		return "cli, in, out and cpuid were not answered as a machine without devices would";
	print("cli, in, out and cpuid: no trap for us, the Host answers\n");
	if (!bad)
		print("%u ways to fault: all caught three times and survived.\n", good);
	if (absent)
		print("%u not demonstrable here.\n", absent);
	return bad ? because("%u of %u exceptions came wrong", bad, good + bad) : NULL;
}
