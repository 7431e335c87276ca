/*
 * [B90] Traps that are timed: an exception by both ways, what the Host emulates, and system
 * calls of a program at ring 3.
 */
#include "timed.h"

#define BREAKPOINT 3
#define GENERAL_PROTECTION 13
#define NOBODYS_PORT 0x2F0

static uint8_t user_stack[256] USER_DATA;
USER_DATA static volatile uint32_t calls_wanted;
USER_DATA static volatile uint64_t user_cycles;

/* A gate that leads somewhere else than to the runtime's stubs. */
static void set_raw_gate(uint32_t vector, uint32_t type, uint32_t dpl, const uint8_t *target)
{
	uint32_t at = (uint32_t)target;

	hypercall(LHCALL_LOAD_IDT_ENTRY, vector, GUEST_CS << 16 | (at & 0xFFFF),
		  (at & 0xFFFF0000) | 0x8000 | dpl << 13 | type << 8, 0);
}

void exceptions_direct(void)
{
	set_raw_gate(BREAKPOINT, GATE_TRAP, 1, return_at_once);
}

void exceptions_bounced(void)
{
	set_raw_gate(BREAKPOINT, GATE_INTERRUPT, 1, return_at_once);
}

void exceptions(uint32_t loops)
{
	while (loops--)
		__asm__ volatile("int3");
}

void cpuids(uint32_t loops)
{
	while (loops--) {
		uint32_t eax = 0, ebx, ecx = 0, edx;

		__asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	}
}

void port_reads(uint32_t loops)
{
	while (loops--) {
		uint8_t value;

		__asm__ volatile("inb %1, %0" : "=a"(value) : "d"((uint16_t)NOBODYS_PORT));
	}
}

/* At ring 3, with the counter read there: HLT is how it says that it is done, for only ring 0 may. */
USER_CODE static void program(void)
{
	uint32_t low, high, low_after, high_after;

	__asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
	for (uint32_t left = calls_wanted; left; left--)
		__asm__ volatile("int $0x80");
	__asm__ volatile("lfence; rdtsc; lfence" : "=a"(low_after), "=d"(high_after) : : "memory");
	user_cycles = ((uint64_t)high_after << 32 | low_after) - ((uint64_t)high << 32 | low);
	__asm__ volatile("hlt");
}

static void program_ends(struct trap_frame *frame)
{
	leave_user(frame, 0);
}

uint64_t user_calls(uint32_t loops)
{
	calls_wanted = loops;
	enter_user(program, (uint32_t)user_stack + sizeof(user_stack));
	return user_cycles;
}

/* Interrupts may come in here, and are counted. */
void spin(uint32_t loops)
{
	(void)loops;
	interrupts_on();
	while (!command.stop)
		command.running++;
	interrupts_off();
}

void traps_ready(const struct tables *tables)
{
	user_segments();
	tables_map_user(tables);
	set_trap_stack();
	set_gate(GENERAL_PROTECTION, GATE_INTERRUPT, 0, program_ends);
	set_raw_gate(SYSCALL_VECTOR, GATE_TRAP, 3, return_at_once);
}
