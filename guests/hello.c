/*
 * [G60] The shortest life a Guest can have: it says hello through the early console, tells
 * what the machine looks like from ring 1, and powers off.  Every line it prints is a
 * handful of hypercalls, and every hypercall a world switch: out through gate 0x1F, and
 * back.
 */
#include "guest.h"

/* SMSW is not privileged: ring 1 may read the control register it may not write. */
static uint32_t machine_status(void)
{
	uint32_t cr0;

	__asm__ volatile("smsw %0" : "=r"(cr0));
	return cr0;
}

static void cpu_vendor(char vendor[13])
{
	uint32_t words[4];

	__asm__ volatile("cpuid" : "=a"(words[0]), "=b"(words[1]), "=d"(words[2]), "=c"(words[3]) : "a"(0));
	for (unsigned int i = 0; i < 12; i++)
		vendor[i] = (char)(words[1 + i / 4] >> (8 * (i % 4)));
	vendor[12] = 0;
}

const char *guest_main(void)
{
	uint32_t cs, cr0 = machine_status(), pair = current_pair();
	char vendor[13];

	__asm__("movl %%cs, %0" : "=r"(cs));
	cpu_vendor(vendor);
	print("Hello from ring %u.\n", cs & 3);
	print("I have %u MiB of memory, a CPU that calls itself %s,\n", ram_bytes() >> 20, vendor);
	print("protected mode %s and paging %s.\n", cr0 & 1 ? "on" : "off", cr0 >> 31 ? "on" : "off");
	print("My GDT is at 0x%08x: that is pair %u of the Switcher at 0x%08x.\n", gdt_base(),
	      pair_number(pair), SWITCHER_BASE);
	if (*command_line())
		print("You said: %s\n", command_line());
	print("Good night.\n");
	if ((cs & 3) != 1)
		return because("a Guest's kernel runs at ring 1, not %u", cs & 3);
	return NULL;
}
