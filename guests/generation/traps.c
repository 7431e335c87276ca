/*
 * Gates: a kernel's own faults, with the interrupt flag that it believes in; and what comes
 * from ring 3, by the gate that the CPU takes alone and by those that the Host looks at.
 */
#include "checks.h"

#define INT3_GATE_ERROR (3 * 8 + 2) /* vector 3, from the IDT */
#define READ_ONLY (USER_WINDOW + 0x100000)
#define NOTHING (USER_WINDOW + 0x101000)
#define ANSWER 0xA45E1234

static struct {
	uint32_t count, vector, error, eflags, irq_enabled;
} seen;

static struct met met;

USER_DATA static uint8_t user_stack[256] __attribute__((aligned(16)));
USER_DATA static volatile uint32_t user_target;

/* What kernels meet themselves: two bytes long, and the handler goes on behind them. */
static void skip_two_bytes(struct trap_frame *frame)
{
	seen.count++;
	seen.vector = frame->vector;
	seen.error = frame->error;
	seen.eflags = frame->eflags;
	seen.irq_enabled = lguest.irq_enabled;
	frame->eip += 2;
}

static const char *undefined_at_ring_1(bool interrupts)
{
	seen.count = 0;
	lguest.irq_enabled = interrupts ? EFLAGS_IF_BIT : 0;
	__asm__ volatile("ud2" : : : "memory");
	if (seen.count != 1 || seen.vector != 6)
		return because("vector %u came %u times", seen.vector, seen.count);
	if (seen.irq_enabled & EFLAGS_IF_BIT)
		return "an interrupt gate left interrupts on";
	if (!(seen.eflags & EFLAGS_IF) == interrupts)
		return because("the saved IF is %u", !interrupts);
	if (!(lguest.irq_enabled & EFLAGS_IF_BIT) == interrupts)
		return because("IF came back as %u", !interrupts);
	lguest.irq_enabled = 0;
	return NULL;
}

const char *check_traps(void)
{
	const char *problem;

	set_gate(6, GATE_INTERRUPT, 0, skip_two_bytes);
	set_gate(13, GATE_INTERRUPT, 0, skip_two_bytes);
	problem = undefined_at_ring_1(true);
	if (!problem)
		problem = undefined_at_ring_1(false);
	if (problem)
		return problem;
	seen.count = 0;
	__asm__ volatile("movw %w0, %%fs" : : "r"(0x1234) : "memory");
	if (seen.count != 1 || seen.vector != 13 || seen.error != 0x1234)
		return because("a bad selector gave vector %u, error 0x%x", seen.vector, seen.error);
	return NULL;
}

/* ---- ring 3 ---------------------------------------------------------------- */

static void from_ring_3(struct trap_frame *frame)
{
	if ((frame->cs & 3) != 3)
		fail("trap %u, error 0x%x, at 0x%x", frame->vector, frame->error, frame->eip);
	met = (struct met){
	    .vector = frame->vector,
	    .error = frame->error,
	    .cr2 = lguest.cr2,
	    .eip = frame->eip,
	    .eflags = frame->eflags,
	    .result = frame->eax,
	    .frame_end = (uint32_t)(frame + 1),
	    .irq_enabled = lguest.irq_enabled,
	    .cs = frame->cs,
	    .ss = frame->ss,
	};
	leave_user(frame, 0);
}

void ring_3_ready(void)
{
	set_trap_stack();
	set_gate(3, GATE_INTERRUPT, 3, from_ring_3);
	set_gate(13, GATE_INTERRUPT, 0, from_ring_3);
	set_gate(14, GATE_INTERRUPT, 0, from_ring_3);
	set_gate(SYSCALL_VECTOR, SYSCALL_BY_INTERRUPT_GATE ? GATE_INTERRUPT : GATE_TRAP, 3, from_ring_3);
}

struct met run_at_ring_3(void (*program)(void))
{
	met = (struct met){0};
	lguest.irq_enabled = EFLAGS_IF_BIT;
	enter_user(program, (uint32_t)user_stack + sizeof(user_stack));
	lguest.irq_enabled = 0;
	return met;
}

USER_CODE static void call(void)
{
	user_exit(ANSWER);
}

USER_CODE static void breakpoint(void)
{
	__asm__ volatile("int3");
	user_exit(0);
}

USER_CODE static void forbidden(void)
{
	__asm__ volatile("cli");
	user_exit(0);
}

USER_CODE static void read_target(void)
{
	user_exit(*(volatile uint32_t *)user_target);
}

USER_CODE static void write_target(void)
{
	*(volatile uint32_t *)user_target = 1;
	user_exit(0);
}

static const char *system_call(void)
{
	struct met was = run_at_ring_3(call);
	bool interrupts = was.irq_enabled & EFLAGS_IF_BIT;

	if (was.vector != SYSCALL_VECTOR || was.result != ANSWER)
		return because("trap %u with 0x%x instead of a system call", was.vector, was.result);
	if (was.cs != USER_CS || was.ss != USER_DS || !(was.eflags & EFLAGS_IF))
		return because("a system call from 0x%x, SS 0x%x, EFLAGS 0x%x", was.cs, was.ss, was.eflags);
	if (was.frame_end != (uint32_t)trap_stack_top)
		return because("its frame ends at 0x%x, not where SET_STACK said", was.frame_end);
	if (interrupts == SYSCALL_BY_INTERRUPT_GATE)
		return because("in a system call IF is %u", interrupts);
	return NULL;
}

static const char *fault(const char *what, void (*program)(void), uint32_t vector, uint32_t error)
{
	struct met was = run_at_ring_3(program);

	if (was.vector != vector || was.error != error)
		return because("%s gave vector %u, error 0x%x, not %u, 0x%x", what, was.vector, was.error,
			       vector, error);
	if (vector == 14 && was.cr2 != user_target)
		return because("%s: CR2 is 0x%x, not 0x%x", what, was.cr2, user_target);
	if (was.frame_end != (uint32_t)trap_stack_top)
		return because("%s: the frame ends at 0x%x", what, was.frame_end);
	return NULL;
}

static const char *page_fault(const char *what, void (*program)(void), uint32_t target, uint32_t error)
{
	user_target = target;
	return fault(what, program, 14, error);
}

static const char *page_faults(void)
{
	const char *problem;

	tables_set(&swapper, READ_ONLY, page_alloc(), PTE_P | PTE_USER);
	tables_set(&swapper, NOTHING, 0, 0);
	problem = page_fault("reading a kernel's page", read_target, (uint32_t)&met, 5);
	if (!problem)
		problem = page_fault("writing a kernel's page", write_target, (uint32_t)&met, 7);
	if (!problem)
		problem = page_fault("writing a read-only page", write_target, READ_ONLY, 7);
	if (!problem)
		problem = page_fault("reading nothing", read_target, NOTHING, 4);
	if (!problem)
		problem = page_fault("writing nothing", write_target, NOTHING, 6);
	return problem;
}

const char *check_rings(void)
{
	const char *problem;

	ring_3_ready();
	problem = system_call();
	if (!problem)
		problem = BOUNCED_GATES_KEEP_DPL ? fault("int3", breakpoint, 3, 0) : NULL;
	if (!problem)
		problem = fault("cli", forbidden, 13, 0);
	if (!problem)
		problem = page_faults();
	probe_ready();
	return problem;
}
