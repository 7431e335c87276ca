/*
 * Page tables: what the Host must notice without being told, and what when it is.
 */
#include "checks.h"

#define MARK_A 0xAAAA0001
#define MARK_B 0xBBBB0002

struct tables swapper;

uint32_t marked_page(uint32_t mark)
{
	uint32_t page = page_alloc();

	*(volatile uint32_t *)seen_at(page) = mark;
	return page;
}

/* As kernels do: all of RAM at PAGE_OFFSET and nothing at 0, then everything forgotten. */
const char *check_tables(void)
{
	uint32_t value;

	probe_ready();
	swapper = tables_create(PAE);
	tables_ram(&swapper, ram_bytes());
	tables_map_user(&swapper);
	tables_use(&swapper);
	tables_flush();
	if (probe(0x100000, &value))
		return "a physical address is still to be seen";
	if (value != 0)
		return because("nothing there gave error %u, not 0", value);
	if (lguest.cr2 != 0x100000)
		return because("the Host says CR2 was 0x%x", lguest.cr2);
	return NULL;
}

/* The lowest-level entry, as the Guest sees it. */
static uint32_t entry_of(uint32_t linear)
{
	return *(volatile uint32_t *)seen_at(tables_entry(&swapper, linear));
}

static const char *accessed_and_dirty(uint32_t at)
{
	if (entry_of(at) & (PTE_A | PTE_D))
		return because("the untouched entry is 0x%x", entry_of(at));
	(void)*word_at(at);
	if ((entry_of(at) & (PTE_A | PTE_D)) != PTE_A)
		return because("after a read the entry is 0x%x", entry_of(at));
	*word_at(at) = MARK_A;
	if ((entry_of(at) & (PTE_A | PTE_D)) != (PTE_A | PTE_D))
		return because("after a write the entry is 0x%x", entry_of(at));
	return NULL;
}

/* One window, first showing A; however it is told of it, the Host must show B next. */
static const char *changes(uint32_t at, uint32_t a, uint32_t b)
{
	const char *problem;

	tables_set(&swapper, at, a, PTE_P | PTE_RW | (GENERATION > KERNEL(2, 6, 24) ? PTE_PCD : 0));
	problem = accessed_and_dirty(at);
	if (problem)
		return problem;
	tables_set(&swapper, at, b, PTE_P | PTE_RW);
	if (*word_at(at) != MARK_B)
		return because("after SET_PTE 0x%x shows 0x%x", at, *word_at(at));
	tables_map(&swapper, at, a, PTE_P | PTE_RW);
	hypercall(LHCALL_FLUSH_TLB, at >= PAGE_OFFSET, 0, 0, 0);
	if (*word_at(at) != MARK_A)
		return because("after FLUSH_TLB 0x%x shows 0x%x", at, *word_at(at));
	return NULL;
}

static const char *refusals(uint32_t at, uint32_t a)
{
	uint32_t value = MARK_B;

	tables_set(&swapper, at, a, PTE_P);
	if (poke(at, &value) || value != 3)
		return because("writing a read-only page gave %u, not error 3", value);
	if (lguest.cr2 != at)
		return because("the Host says CR2 was 0x%x, not 0x%x", lguest.cr2, at);
	if (*word_at(at) != MARK_A)
		return "a read-only page was written";
	value = MARK_B;
	tables_set(&swapper, at, a, PTE_P | PTE_RW | PTE_A | PTE_D);
	if (!poke(at, &value) || *word_at(at) != MARK_B)
		return because("a page made writable gave %u", value);
	tables_set(&swapper, at, 0, 0);
	if (probe(at, &value) || value != 0)
		return because("a page taken away gave %u, not error 0", value);
	value = MARK_A;
	if (poke(at, &value) || value != 2)
		return because("writing it gave %u, not error 2", value);
	return NULL;
}

const char *check_paging(void)
{
	static const uint32_t windows[] = {USER_WINDOW, KERNEL_WINDOW};
	uint32_t a = marked_page(MARK_A), b = marked_page(MARK_B);
	const char *problem = NULL;

	for (unsigned int i = 0; i < 2 && !problem; i++) {
		*(volatile uint32_t *)seen_at(a) = MARK_A;
		problem = changes(windows[i], a, b);
		if (!problem)
			problem = refusals(windows[i], a);
	}
	return problem;
}
