/*
 * Whole directories: entries of the upper levels that change, and more processes than the
 * Host has roots for, each with a page of its own at the same address.
 */
#include "checks.h"

#define PROCESSES 6
#define MARK 0xD1EC0000
#define DIRECTORY_BYTES 32 /* of a PAE process from 4.1 on */

static struct tables processes[PROCESSES];

/* Two tables for one window: the entry above them is changed, and the Host told. */
static const char *upper_entries(void)
{
	struct tables other = tables_create(PAE);
	volatile uint32_t *mine, *theirs;
	uint32_t at = USER_WINDOW + 0x800000;

	tables_map(&swapper, at, marked_page(MARK + 1), PTE_P | PTE_RW);
	tables_map(&other, at, marked_page(MARK + 2), PTE_P | PTE_RW);
	if (*word_at(at) != MARK + 1)
		return because("0x%x shows 0x%x", at, *word_at(at));
#if PAE
	{
		uint32_t middle = *(volatile uint32_t *)seen_at(swapper.root + (at >> 30) * 8) & ~0xFFFu;
		uint32_t middle2 = *(volatile uint32_t *)seen_at(other.root + (at >> 30) * 8) & ~0xFFFu;

		mine = seen_at(middle + (at >> 21 & 511) * 8);
		theirs = seen_at(middle2 + (at >> 21 & 511) * 8);
		*mine = *theirs;
		hypercall(LHCALL_SET_PMD, middle, at >> 21 & 511, 0, 0);
		if (*word_at(at) != MARK + 2)
			return because("after SET_PMD 0x%x shows 0x%x", at, *word_at(at));
		*mine = 0;
		hypercall(LHCALL_SET_PMD, middle, at >> 21 & 511, 0, 0);
		mine = seen_at(swapper.root + (at >> 30) * 8);
		theirs = seen_at(other.root + (at >> 30) * 8);
		*mine = *theirs;
		hypercall(LHCALL_SET_PGD, swapper.root, at >> 30, 0, 0);
	}
#else
	mine = seen_at(swapper.root + (at >> 22) * 4);
	theirs = seen_at(other.root + (at >> 22) * 4);
	*mine = *theirs;
	hypercall(LHCALL_SET_PGD, swapper.root, at >> 22, 0, 0);
#endif
	if (*word_at(at) != MARK + 2)
		return because("after SET_PGD 0x%x shows 0x%x", at, *word_at(at));
	return NULL;
}

/* The kernel's half is the same for everybody, as kernels have it. */
static struct tables fork_tables(uint32_t n)
{
	static uint32_t shared;
	struct tables child = {0, PAE};
	uint32_t from = PAE ? 3 * 8 : (PAGE_OFFSET >> 22) * 4;
	uint32_t to = PAE ? 4 * 8 : PAGE_BYTES;

	if (PAE && GENERATION >= KERNEL(4, 1, 0)) {
		if (!shared)
			shared = page_alloc();
		child.root = shared + n * DIRECTORY_BYTES;
	} else {
		child.root = page_alloc();
	}
	for (uint32_t at = from; at < to; at += 4)
		*(volatile uint32_t *)seen_at(child.root + at) =
		    *(volatile uint32_t *)seen_at(swapper.root + at);
	return child;
}

static const char *each_its_own(uint32_t mark)
{
	for (uint32_t i = 0; i < PROCESSES; i++) {
		tables_use(&processes[i]);
		if (*word_at(USER_WINDOW) != mark + i)
			return because("process %u sees 0x%x, not 0x%x", i, *word_at(USER_WINDOW), mark + i);
	}
	return NULL;
}

const char *check_directories(void)
{
	const char *problem = upper_entries();
	uint32_t page;

	if (problem)
		return problem;
	/* Its upper entry must exist before it is copied. */
	tables_map(&swapper, KERNEL_WINDOW, 0, 0);
	for (uint32_t i = 0; i < PROCESSES; i++) {
		processes[i] = fork_tables(i);
		tables_map(&processes[i], USER_WINDOW, marked_page(MARK + 0x10 + i), PTE_P | PTE_RW);
	}
	problem = each_its_own(MARK + 0x10);
	if (!problem)
		problem = each_its_own(MARK + 0x10);
	if (problem)
		return problem;
	/* One that is not current changes, and a kernel's page for all of them. */
	for (uint32_t i = 0; i < PROCESSES; i++)
		tables_set(&processes[i], USER_WINDOW, marked_page(MARK + 0x20 + i), PTE_P | PTE_RW);
	page = marked_page(MARK);
	tables_set(&swapper, KERNEL_WINDOW, page, PTE_P | PTE_RW);
	problem = each_its_own(MARK + 0x20);
	if (!problem && *word_at(KERNEL_WINDOW) != MARK)
		problem = "a process does not see a kernel's page";
	tables_set(&swapper, KERNEL_WINDOW, 0, 0);
	if (!problem && probe(KERNEL_WINDOW, &page))
		problem = "a kernel's page that is gone is still to be seen";
	tables_use(&swapper);
	return problem;
}
