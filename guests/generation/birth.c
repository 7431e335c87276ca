/*
 * What a kernel finds when it begins: registers, boot parameters, what INIT answered, and the
 * tables it was born with if it belongs to a generation that was.
 */
#include "checks.h"

#define BORN_RIGHTS 7 /* present, writable, for everybody */
#define EFLAGS_IOPL 0x3000
#define YEAR_2020 1577836800
#define NANOSECONDS 1000000000
#define LEAST_KHZ 100000

static uint32_t selector(uint32_t which)
{
	uint32_t cs, ds, es, ss, fs, gs;

	__asm__("movl %%cs, %0; movl %%ds, %1; movl %%es, %2" : "=r"(cs), "=r"(ds), "=r"(es));
	__asm__("movl %%ss, %0; movl %%fs, %1; movl %%gs, %2" : "=r"(ss), "=r"(fs), "=r"(gs));
	return (const uint32_t[]){cs, ds, es, ss, fs, gs}[which];
}

static const char *check_parameters(void)
{
	uint32_t alignment = boot_word(BOOT_KERNEL_ALIGNMENT);

	if ((boot_word(BOOT_VERSION) & 0xFFFF) != BOOT_PROTOCOL_207)
		return because("boot protocol 0x%x", boot_word(BOOT_VERSION) & 0xFFFF);
	if (!(boot_word(BOOT_LOADFLAGS) & BOOT_KEEP_SEGMENTS))
		return "KEEP_SEGMENTS is not set";
	if (boot_word(BOOT_HARDWARE_SUBARCH) != BOOT_SUBARCH_LGUEST)
		return because("hardware_subarch %u", boot_word(BOOT_HARDWARE_SUBARCH));
	if (HAS_KERNEL_ALIGNMENT && alignment != BOOT_ALIGNMENT)
		return because("kernel_alignment 0x%x", alignment);
	if ((boot_word(BOOT_E820_ENTRIES) & 0xFF) != 1 || boot_word(BOOT_E820_TABLE) != 0)
		return "there is not one e820 entry from 0 on";
	return NULL;
}

const char *check_birth(void)
{
	static const uint32_t should[] = {GUEST_CS, GUEST_DS, GUEST_DS, GUEST_DS, 0, 0};
	uint32_t eflags;

	for (uint32_t i = 0; i < 8; i++)
		if (born_with[i])
			return because("register %u began as 0x%x", i, born_with[i]);
	for (uint32_t i = 0; i < 6; i++)
		if (selector(i) != should[i])
			return because("segment register %u began as 0x%x", i, selector(i));
	__asm__("pushfl; popl %0" : "=r"(eflags));
	if (!(eflags & EFLAGS_IF) || (eflags & EFLAGS_IOPL))
		return because("EFLAGS is 0x%x", eflags);
	return check_parameters();
}

#if HAS_PGDIR
/* The entry that maps LINEAR in the tables we were born with, or 0; read where RAM is seen. */
static uint32_t born_entry(uint32_t linear)
{
	uint32_t table = lguest.pgdir;

#if PAE
	table = *(volatile uint32_t *)seen_at(table + (linear >> 30) * 8);
	if (!(table & PTE_P))
		return 0;
	table = *(volatile uint32_t *)seen_at((table & ~(PAGE_BYTES - 1)) + (linear >> 21 & 511) * 8);
	return table & PTE_P
		   ? *(volatile uint32_t *)seen_at((table & ~(PAGE_BYTES - 1)) + (linear >> 12 & 511) * 8)
		   : 0;
#else
	table = *(volatile uint32_t *)seen_at(table + (linear >> 22) * 4);
	return table & PTE_P
		   ? *(volatile uint32_t *)seen_at((table & ~(PAGE_BYTES - 1)) + (linear >> 12 & 1023) * 4)
		   : 0;
#endif
}

/* RAM as it was seen on the first day, at its physical address and behind OFFSET. */
static const char *check_born_with(uint32_t offset)
{
	const uint32_t places[] = {0, physical(&swapper), ram_bytes() / 2, ram_bytes() - PAGE_BYTES};

	for (unsigned int i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		uint32_t page = places[i] & ~(PAGE_BYTES - 1), entry = born_entry(offset + page);

		if ((entry & ~(PAGE_BYTES - 1)) != page || (entry & BORN_RIGHTS) != BORN_RIGHTS)
			return because("0x%x is mapped by entry 0x%x", offset + page, entry);
		if (*word_at(page) != *word_at(PAGE_OFFSET + page))
			return because("0x%x and its physical address differ", PAGE_OFFSET + page);
	}
	return NULL;
}
#endif

static const char *check_time(void)
{
	if (lguest.time_sec < YEAR_2020 || lguest.time_nsec >= NANOSECONDS)
		return because("the time is %u and %u ns", lguest.time_sec, lguest.time_nsec);
	if (lguest.tsc_khz && lguest.tsc_khz < LEAST_KHZ)
		return because("the TSC counts %u kHz", lguest.tsc_khz);
	return NULL;
}

const char *check_init(void)
{
	uint32_t top = 0 - lguest.reserve_mem;
	const char *problem = check_time();

	if (problem)
		return problem;
	if (!lguest.reserve_mem || lguest.reserve_mem % PAGE_BYTES || top < 0xF0000000)
		return because("reserve_mem is 0x%x", lguest.reserve_mem);
	if (gdt_base() < top)
		return because("the Switcher's 0x%x lies below 0x%x", gdt_base(), top);
	if (*word_at(0x100000) != *word_at(PAGE_OFFSET + 0x100000))
		return "the image is not seen at its physical address";
#if HAS_PGDIR
	if (!lguest.pgdir || lguest.pgdir % PAGE_BYTES || lguest.pgdir >= ram_bytes())
		return because("pgdir is 0x%x", lguest.pgdir);
	problem = check_born_with(0);
#if !COPIES_PGDIR
	if (!problem)
		problem = check_born_with(PAGE_OFFSET);
#endif
#endif
	return problem;
}
