/*
 * Ring 3 calls ring 1 by `int 0x80`, as often as calls=N says (10,000 unless told), and
 * the Host hears nothing of it: the gate is a trap gate, so the Switcher put it into the
 * live IDT as it is, and the CPU takes the stack that SET_STACK named.  Each call checks
 * that it came by that stack, from that ring, with the arguments that were passed.
 */
#include "guest.h"

#define IDENTITY_BYTES 0x400000
#define CALL_ADD 1
#define CALL_EXIT 2

USER_DATA static volatile uint32_t user_calls;
USER_DATA static uint8_t user_stack[1024];

static uint32_t calls, sum, first_esp;

USER_CODE static uint32_t system_call_2(uint32_t number, uint32_t argument)
{
	__asm__ volatile("int $0x80" : "+a"(number) : "b"(argument) : "memory");
	return number;
}

/* At ring 3: adds 1, 2, 3, ... and tells at the end whether every answer was right. */
USER_CODE static void program(void)
{
	uint32_t expected = 0, wrong = 0;

	for (uint32_t i = 1; i <= user_calls; i++) {
		expected += i;
		if (system_call_2(CALL_ADD, i) != expected)
			wrong++;
	}
	system_call_2(CALL_EXIT, wrong);
}

/* At ring 1: what the CPU pushed must be what SET_STACK and the user's program promise. */
static void check_stack(const struct trap_frame *frame)
{
	uint32_t ss;

	__asm__("movl %%ss, %0" : "=r"(ss));
	if (ss != GUEST_DS)
		fail("call %u came with SS 0x%x", calls, ss);
	if ((uint32_t)(frame + 1) != (uint32_t)trap_stack_top)
		fail("call %u ended its frame at 0x%x, not at SET_STACK's 0x%x", calls, (uint32_t)(frame + 1),
		     (uint32_t)trap_stack_top);
	if (frame->cs != USER_CS || frame->ss != USER_DS)
		fail("call %u came from 0x%x with SS 0x%x", calls, frame->cs, frame->ss);
	if (calls == 1)
		first_esp = frame->esp;
	if (frame->eax == CALL_ADD && frame->esp != first_esp)
		fail("call %u came with ESP 0x%x, not 0x%x", calls, frame->esp, first_esp);
}

static void system_call(struct trap_frame *frame)
{
	calls++;
	check_stack(frame);
	if (frame->eax == CALL_EXIT) {
		leave_user(frame, frame->ebx);
		return;
	}
	sum += frame->ebx;
	frame->eax = sum;
}

const char *guest_main(void)
{
	struct tables tables = tables_create(false);
	uint32_t wanted = option("calls", 10000), wrong;

	user_segments();
	tables_ram(&tables, IDENTITY_BYTES);
	tables_map_user(&tables);
	tables_use(&tables);
	set_trap_stack();
	set_gate(SYSCALL_VECTOR, GATE_TRAP, 3, system_call);
	interrupts_on();

	user_calls = wanted;
	print("Going down to ring 3.\n");
	wrong = enter_user(program, (uint32_t)user_stack + sizeof(user_stack));
	print("Back at ring 1 after %u system calls and an exit; the sum of their arguments is %u.\n",
	      calls - 1, sum);
	if (wrong)
		return because("%u answers were wrong at ring 3", wrong);
	if (calls != wanted + 1)
		return because("%u calls arrived of %u", calls - 1, wanted);
	return NULL;
}
