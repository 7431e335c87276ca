/*
 * Code that was not in the image: copied into fresh pages, as modules are, and run there.
 * From 2.6.30 to 2.6.33 a hypercall is a VMCALL, which a Host on KVM never gets to see
 * and must have replaced before it is executed; elsewhere there is nothing to replace,
 * and it must work all the same.
 */
#include "checks.h"

#define MODULE (KERNEL_WINDOW + 0x10000)
#define TEXT "as text"

extern const uint8_t module_begin[], module_call[], module_end[];

typedef uint32_t (*module)(uint32_t number, uint32_t argument);

/* Puts the module at AT and has it load a TLS segment; LSL tells whether that was done. */
static const char *run_module(uint32_t at, uint32_t limit)
{
	static uint32_t descriptors[6] = {0, 0x0040F300};

	for (uint32_t i = 0; module_begin + i < module_end; i++)
		((volatile uint8_t *)at)[i] = module_begin[i];
	for (uint32_t i = 0; i < 2; i++) {
		uint32_t eax;

		descriptors[0] = limit + i;
		eax = ((module)at)(LHCALL_LOAD_TLS, physical(descriptors));
		if (limit_of(0x33) != limit + i)
			return because("a hypercall at 0x%x was not made, EAX is 0x%x", at, eax);
	}
	return NULL;
}

const char *check_module(void)
{
	/* Two pages that do not follow each other in memory. */
	uint32_t second = page_alloc(), first = page_alloc();
	uint32_t offset = (uint32_t)(module_call - module_begin);
	const char *problem;

	tables_set(&swapper, MODULE, first, PTE_P | PTE_RW);
	tables_set(&swapper, MODULE + PAGE_BYTES, second, PTE_P | PTE_RW);
	problem = run_module(MODULE, 0x100);
	/* In the page that has run code already, and then across its end. */
	if (!problem)
		problem = run_module(MODULE + 0x800, 0x200);
	for (uint32_t split = 1; split < 3 && !problem; split++)
		problem = run_module(MODULE + PAGE_BYTES - offset - split, 0x300 + 0x10 * split);
	return problem;
}
