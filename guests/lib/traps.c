/*
 * Gates, and what comes through them.
 *
 * Every gate leads to a stub of its own, every stub to trap_entry, and that calls
 * trap_dispatch() here: one table of handlers, and one answer for a trap that
 * nobody expected, which is to say what it was and to end.
 */
#include "guest.h"

#define STUB_BYTES 16

extern uint8_t trap_stubs[];
extern const uint8_t probe_load[], probe_store[], probe_fault[], user_return[];

uint32_t probe_error, user_result;

static trap_handler handlers[IDT_ENTRIES];

void trap_dispatch(struct trap_frame *frame);

void trap_dispatch(struct trap_frame *frame)
{
	if (!handlers[frame->vector])
		fail("trap %u, error 0x%x, at 0x%x, which nobody expected", frame->vector, frame->error,
		     frame->eip);
	handlers[frame->vector](frame);
}

void set_gate(uint32_t vector, uint32_t type, uint32_t dpl, trap_handler handler)
{
	uint32_t stub = (uint32_t)trap_stubs + vector * STUB_BYTES;

	handlers[vector] = handler;
	hypercall(LHCALL_LOAD_IDT_ENTRY, vector, GUEST_CS << 16 | (stub & 0xFFFF),
		  (stub & 0xFFFF0000) | 0x8000 | dpl << 13 | type << 8, 0);
}

#if WHOLE_GDT
static uint32_t gdt[2 * GDT_ENTRIES] = {
    [2 * (GUEST_CS >> 3)] = 0x0000FFFF,
    0x00CF9B00,
    0x0000FFFF,
    0x00CF9300,
};
#endif

void set_descriptor(uint32_t index, uint32_t base, uint32_t low, uint32_t high)
{
	low |= base << 16;
	high |= (base & 0xFF000000) | (base >> 16 & 0xFF);
#if WHOLE_GDT
	gdt[2 * index] = low;
	gdt[2 * index + 1] = high;
	hypercall(LHCALL_LOAD_GDT, physical(gdt), GDT_ENTRIES, 0, 0);
#else
	hypercall(LHCALL_LOAD_GDT_ENTRY, index, low, high, 0);
#endif
}

void user_segments(void)
{
	set_descriptor(USER_CS >> 3, 0, 0x0000FFFF, 0x00CFFB00);
	set_descriptor(USER_DS >> 3, 0, 0x0000FFFF, 0x00CFF300);
}

void set_trap_stack(void)
{
	hypercall(LHCALL_SET_STACK, GUEST_DS, (uint32_t)trap_stack_top, 2, 0);
}

static void probe_trap(struct trap_frame *frame)
{
	if (frame->eip != (uint32_t)probe_load && frame->eip != (uint32_t)probe_store)
		fail("page fault at 0x%x on 0x%x, error 0x%x", frame->eip, lguest.cr2, frame->error);
	probe_error = frame->error;
	frame->eip = (uint32_t)probe_fault;
}

void probe_ready(void)
{
	set_gate(14, GATE_INTERRUPT, 0, probe_trap);
}

void leave_user(struct trap_frame *frame, uint32_t result)
{
	user_result = result;
	frame->eip = (uint32_t)user_return;
	frame->cs = GUEST_CS;
}
