/*
 * [B110] Page tables that are timed: entries the Host has to copy into its shadow, entries
 * that change, tables that are exchanged.
 */
#include "timed.h"

#define IDENTITY_BYTES 0x400000
/* Linear addresses that nothing else uses; in PAE tables as well as in others one table's worth. */
#define PLAYGROUND 0x40000000

static struct tables roots[BENCH_MOST_ROOTS];
static uint32_t frames[2], made;

static struct tables make(bool pae)
{
	struct tables tables = tables_create(pae);

	tables_ram(&tables, IDENTITY_BYTES);
	tables_map_user(&tables);
	for (uint32_t page = 0; page < BENCH_MOST_PAGES; page++)
		tables_map(&tables, PLAYGROUND + page * PAGE_BYTES, frames[0],
			   PTE_P | PTE_RW | PTE_A | PTE_D);
	return tables;
}

void paging_ready(bool pae)
{
	frames[0] = page_alloc();
	frames[1] = page_alloc();
	for (made = 0; made < BENCH_MOST_ROOTS; made++)
		roots[made] = make(pae);
	tables_use(&roots[0]);
	traps_ready(&roots[0]);
}

static void read_page(uint32_t page)
{
	__asm__ volatile("movl (%0), %%eax" : : "r"(PLAYGROUND + page * PAGE_BYTES) : "eax", "memory");
}

void touch_prepare(uint32_t loops)
{
	if (loops > BENCH_MOST_PAGES)
		fail("%u pages are too many", loops);
	flush(1);
	/* The table itself is there, so that only entries are missing. */
	read_page(BENCH_MOST_PAGES - 1);
}

void touch(uint32_t loops)
{
	for (uint32_t page = 0; page < loops; page++)
		read_page(page);
}

void flush(uint32_t loops)
{
	while (loops--)
		hypercall(LHCALL_FLUSH_TLB, 1, 0, 0, 0);
}

/* As kernels change an entry: in their own table, and by telling the Host. */
void set_ptes(uint32_t loops)
{
	for (uint32_t i = 0; i < loops; i++)
		tables_set(&roots[0], PLAYGROUND, frames[i & 1], PTE_P | PTE_RW | PTE_A | PTE_D);
}

void queue_ptes(uint32_t loops)
{
	for (uint32_t i = 0; i < loops; i++) {
		uint32_t flags = PTE_P | PTE_RW | PTE_A | PTE_D;

		tables_map(&roots[0], PLAYGROUND, frames[i & 1], flags);
		hypercall_later(LHCALL_SET_PTE, roots[0].root, PLAYGROUND, frames[i & 1] | flags, 0);
	}
	hypercall(LHCALL_FLUSH_ASYNC, 0, 0, 0, 0);
}

void switch_prepare(uint32_t loops)
{
	uint32_t count = command.arguments[0];

	(void)loops;
	if (count < 1 || count > BENCH_MOST_ROOTS)
		fail("there are not %u roots", count);
	switch_roots(2 * count);
}

void switch_roots(uint32_t loops)
{
	uint32_t count = command.arguments[0];

	for (uint32_t i = 0; i < loops; i++) {
		tables_use(&roots[i % count]);
		read_page(0);
	}
}
