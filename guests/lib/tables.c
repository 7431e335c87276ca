/*
 * Page tables of the Guest's own, in either format.
 *
 * The Host never lets the CPU see these: it reads them and fills its shadow.  It
 * tells the formats apart by the first entry, which is why a two-level directory
 * carries 0x67 there and a PAE top entry nothing but Present.
 */
#include "guest.h"

#define PAE_TOP_SHIFT 30
#define PAE_MIDDLE_SHIFT 21
#define TWO_LEVEL_SHIFT 22

/* Far from everything else that anybody maps. */
#define DEVICE_WINDOW 0xF8000000

static struct tables current;
static uint32_t next_device = DEVICE_WINDOW;

struct tables tables_create(bool pae)
{
	return (struct tables){page_alloc(), pae};
}

/* The page that the entry at ENTRY leads to, made when it is missing. */
static uint32_t next_level(uint32_t entry, uint32_t flags)
{
	volatile uint32_t *word = seen_at(entry);

	if (!(*word & PTE_P))
		*word = page_alloc() | flags;
	return *word & ~(PAGE_BYTES - 1);
}

uint32_t tables_entry(const struct tables *tables, uint32_t linear)
{
	uint32_t directory, table;

	if (!tables->pae) {
		table = next_level(tables->root + (linear >> TWO_LEVEL_SHIFT) * 4, PDE_FLAGS);
		return table + (linear >> 12 & 1023) * 4;
	}
	directory = next_level(tables->root + (linear >> PAE_TOP_SHIFT) * 8, PTE_P);
	table = next_level(directory + (linear >> PAE_MIDDLE_SHIFT & 511) * 8, PDE_FLAGS);
	return table + (linear >> 12 & 511) * 8;
}

void tables_map(const struct tables *tables, uint32_t linear, uint32_t physical, uint32_t flags)
{
	volatile uint32_t *entry = seen_at(tables_entry(tables, linear));

	*entry = flags ? physical | flags : 0;
}

void tables_set(const struct tables *tables, uint32_t linear, uint32_t physical, uint32_t flags)
{
	tables_map(tables, linear, physical, flags);
	hypercall(LHCALL_SET_PTE, tables->root, linear, flags ? physical | flags : 0, 0);
}

void tables_ram(const struct tables *tables, uint32_t bytes)
{
	for (uint32_t at = 0; at < bytes; at += PAGE_BYTES)
		tables_map(tables, KERNEL_BASE + at, at, PTE_P | PTE_RW);
}

void tables_map_user(const struct tables *tables)
{
	for (uint32_t at = 0; user_begin + at < user_end; at += PAGE_BYTES)
		tables_map(tables, (uint32_t)user_begin + at, (uint32_t)user_load + at,
			   PTE_P | PTE_RW | PTE_USER);
}

void tables_use(const struct tables *tables)
{
	current = *tables;
	hypercall(LHCALL_NEW_PGTABLE, tables->root, 0, 0, 0);
}

void tables_flush(void)
{
	hypercall(LHCALL_FLUSH_TLB, 1, 0, 0, 0);
}

/* As ioremap does, which left caching alone in 2.6.24. */
volatile void *device_memory(uint32_t physical, uint32_t bytes)
{
	uint32_t flags = PTE_P | PTE_RW | PTE_A | PTE_D | (GENERATION > KERNEL(2, 6, 24) ? PTE_PCD : 0);
	uint32_t first = physical & ~(PAGE_BYTES - 1), linear = next_device;

	for (uint32_t page = first; page < physical + bytes; page += PAGE_BYTES) {
		tables_set(&current, next_device, page, flags);
		next_device += PAGE_BYTES;
	}
	return (volatile void *)(linear + physical - first);
}
