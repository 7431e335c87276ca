/*
 * Whole directories: entries of the upper levels that change, and more processes than the
 * Host has roots for, each with a page of its own at the same address.
 */
#include "checks.h"

#define PROCESSES 6
#define MARK 0xD1EC0000
#define UPPER_WINDOW (USER_WINDOW + 0x800000)
#define DIRECTORY_BYTES 32 /* of a PAE process from 4.1 on */

static struct tables processes[PROCESSES];

static const char *shows(uint32_t mark, const char *call)
{
	uint32_t is = *word_at(UPPER_WINDOW);

	return is == mark ? NULL
			  : because("after %s 0x%x shows 0x%x, not 0x%x", call, UPPER_WINDOW, is, mark);
}

#if PAE
/* The entry of the directory's second level that leads to the window. */
static volatile uint32_t *middle_entry(const struct tables *tables, uint32_t *page)
{
	*page = *(volatile uint32_t *)seen_at(tables->root + (UPPER_WINDOW >> 30) * 8) & ~(PAGE_BYTES - 1);
	return seen_at(*page + (UPPER_WINDOW >> 21 & 511) * 8);
}
#endif

/* Two tables for one window: the entry above them is changed, and the Host told. */
static const char *upper_entries(void)
{
	struct tables other = tables_create(PAE);
	uint32_t index = PAE ? UPPER_WINDOW >> 30 : UPPER_WINDOW >> 22;
	volatile uint32_t *mine = seen_at(swapper.root + index * ENTRY_BYTES);
	volatile uint32_t *theirs = seen_at(other.root + index * ENTRY_BYTES);
	const char *problem;

	tables_map(&swapper, UPPER_WINDOW, marked_page(MARK + 1), PTE_P | PTE_RW);
	tables_map(&other, UPPER_WINDOW, marked_page(MARK + 2), PTE_P | PTE_RW);
	problem = shows(MARK + 1, "nothing");
	if (problem)
		return problem;
#if PAE
	uint32_t page, others;
	volatile uint32_t *entry = middle_entry(&swapper, &page);
	uint32_t before = *entry;

	*entry = *middle_entry(&other, &others);
	hypercall(LHCALL_SET_PMD, page, UPPER_WINDOW >> 21 & 511, 0, 0);
	problem = shows(MARK + 2, "SET_PMD");
	*entry = before;
	hypercall(LHCALL_SET_PMD, page, UPPER_WINDOW >> 21 & 511, 0, 0);
	if (!problem)
		problem = shows(MARK + 1, "SET_PMD");
	if (problem)
		return problem;
#endif
	*mine = *theirs;
	hypercall(LHCALL_SET_PGD, swapper.root, index, 0, 0);
	return shows(MARK + 2, "SET_PGD");
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

/* Every process sees a page of its own, and all of them the same one of the kernel's. */
static const char *each_its_own(uint32_t mark, uint32_t kernel)
{
	for (uint32_t i = 0; i < PROCESSES; i++) {
		tables_use(&processes[i]);
		if (*word_at(USER_WINDOW) != mark + i)
			return because("process %u sees 0x%x, not 0x%x", i, *word_at(USER_WINDOW), mark + i);
		if (*word_at(KERNEL_WINDOW) != kernel)
			return because("process %u sees 0x%x of the kernel, not 0x%x", i,
				       *word_at(KERNEL_WINDOW), kernel);
	}
	return NULL;
}

const char *check_directories(void)
{
	const char *problem = upper_entries();
	uint32_t value;

	if (problem)
		return problem;
	/* Its upper entry must exist before it is copied. */
	tables_set(&swapper, KERNEL_WINDOW, marked_page(MARK + 3), PTE_P | PTE_RW);
	for (uint32_t i = 0; i < PROCESSES; i++) {
		processes[i] = fork_tables(i);
		tables_map(&processes[i], USER_WINDOW, marked_page(MARK + 0x10 + i), PTE_P | PTE_RW);
	}
	problem = each_its_own(MARK + 0x10, MARK + 3);
	if (!problem)
		problem = each_its_own(MARK + 0x10, MARK + 3);
	if (problem)
		return problem;
	/* Those that are not current change, and then a page of the kernel's for all of them. */
	for (uint32_t i = 0; i < PROCESSES; i++)
		tables_set(&processes[i], USER_WINDOW, marked_page(MARK + 0x20 + i), PTE_P | PTE_RW);
	tables_set(&swapper, KERNEL_WINDOW, marked_page(MARK + 4), PTE_P | PTE_RW);
	problem = each_its_own(MARK + 0x20, MARK + 4);
	tables_set(&swapper, KERNEL_WINDOW, 0, 0);
	if (!problem && probe(KERNEL_WINDOW, &value))
		problem = "a kernel's page that is gone is still to be seen";
	tables_use(&swapper);
	return problem;
}
