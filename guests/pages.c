/*
 * Touches memory all over: first in the 1:1 view that a Guest is born with, then through
 * page tables of its own (two-level, or with PAE if told "pae"), where the same pages show
 * up in three places.  It moves mappings with SET_PTE, one by one and through the async ring,
 * and with FLUSH_TLB, and looks whether reads follow, looks for the Accessed and Dirty bits
 * that the Host must set, and writes where it may not.  touches=N pages, 256 unless told, spread over all its
 * RAM.
 */
#include "guest.h"

#define WINDOW_A 0x80000000
#define WINDOW_B 0xC0000000
#define SALT 0x9E3779B9

static struct tables tables;
static uint32_t touches, first, stride;

static uint32_t page_of(uint32_t i)
{
	return first + i * stride;
}

static volatile uint32_t *word(uint32_t linear, uint32_t i)
{
	/* Not always the first word of the page, so that offsets count too. */
	return (volatile uint32_t *)(linear + (i * 4 & (PAGE_BYTES - 4)));
}

/* Writes through one address, and then reads all of them through another. */
static const char *touch_physical(uint32_t salt)
{
	for (uint32_t i = 0; i < touches; i++)
		*word(page_of(i), i) = page_of(i) ^ salt;
	for (uint32_t i = 0; i < touches; i++)
		if (*word(page_of(i), i) != (page_of(i) ^ salt))
			return because("0x%x reads 0x%x", page_of(i), *word(page_of(i), i));
	return NULL;
}

static const char *touch_windows(void)
{
	for (uint32_t i = 0; i < touches; i++) {
		uint32_t a = WINDOW_A + i * PAGE_BYTES, b = WINDOW_B + i * PAGE_BYTES;

		if (*word(a, i) != (page_of(i) ^ SALT))
			return because("0x%x does not show page 0x%x", a, page_of(i));
		*word(a, i) = i;
		if (*word(b, i) != i || *word(page_of(i), i) != i)
			return because("a write to 0x%x is not seen at 0x%x", a, b);
	}
	return NULL;
}

/* The Host must mark what was read and what was written, in our tables. */
static const char *accessed_and_dirty(void)
{
	uint32_t page = page_alloc(), at = WINDOW_A - PAGE_BYTES;
	volatile uint32_t *entry = (volatile uint32_t *)tables_entry(&tables, at);
	volatile uint32_t *there = (volatile uint32_t *)at;

	tables_set(&tables, at, page, PTE_P | PTE_RW);
	if (*entry & (PTE_A | PTE_D))
		return "an untouched page is marked";
	(void)*there;
	if ((*entry & (PTE_A | PTE_D)) != PTE_A)
		return because("after a read the entry is 0x%x", *entry);
	*there = 1;
	if ((*entry & (PTE_A | PTE_D)) != (PTE_A | PTE_D))
		return because("after a write the entry is 0x%x", *entry);
	return NULL;
}

/* Window A backwards: each mapping changed one by one, then all at once. */
static const char *move_mappings(void)
{
	for (uint32_t i = 0; i < touches; i++)
		*word(page_of(i), 0) = page_of(i);
	for (uint32_t i = 0; i < touches; i++) {
		uint32_t target = page_of(touches - 1 - i);

		tables_set(&tables, WINDOW_A + i * PAGE_BYTES, target, PTE_P | PTE_RW);
		if (*word(WINDOW_A + i * PAGE_BYTES, 0) != target)
			return because("SET_PTE: 0x%x still shows another page", WINDOW_A + i * PAGE_BYTES);
	}
	for (uint32_t i = 0; i < touches; i++)
		tables_map(&tables, WINDOW_A + i * PAGE_BYTES, page_of(i), PTE_P | PTE_RW);
	tables_flush();
	for (uint32_t i = 0; i < touches; i++)
		if (*word(WINDOW_A + i * PAGE_BYTES, 0) != page_of(i))
			return because("FLUSH_TLB: 0x%x still shows another page", WINDOW_A + i * PAGE_BYTES);
	return NULL;
}

/* The same through the async ring: nothing moves for sure before the direct call that ends it. */
static const char *move_later(void)
{
	for (uint32_t i = 0; i < touches; i++) {
		uint32_t at = WINDOW_A + i * PAGE_BYTES, target = page_of((i + 1) % touches);

		tables_map(&tables, at, target, PTE_P | PTE_RW);
		hypercall_later(LHCALL_SET_PTE, tables.root, at, target | PTE_P | PTE_RW, 0);
	}
	hypercall(LHCALL_FLUSH_ASYNC, 0, 0, 0, 0);
	for (uint32_t i = 0; i < LHCALL_RING_SIZE; i++)
		if (lguest.hcall_status[i] != LHCALL_RING_FREE)
			return because("slot %u of the ring is still taken", i);
	for (uint32_t i = 0; i < touches; i++)
		if (*word(WINDOW_A + i * PAGE_BYTES, 0) != page_of((i + 1) % touches))
			return because("ring: 0x%x still shows another page", WINDOW_A + i * PAGE_BYTES);
	return NULL;
}

static const char *protections(void)
{
	uint32_t value = 1, at = WINDOW_A;

	tables_set(&tables, at, page_of(0), PTE_P | PTE_RW);
	if (!poke(at, &value))
		return because("a writable page refused a write with error %u", value);
	tables_set(&tables, at, page_of(0), PTE_P);
	if (poke(at, &value) || value != 3)
		return because("writing a read-only page gave %u, not error 3", value);
	if (lguest.cr2 != at)
		return because("the Host says CR2 was 0x%x, not 0x%x", lguest.cr2, at);
	if (!probe(at, &value) || value != 1)
		return "a read-only page cannot be read";
	tables_set(&tables, at, 0, 0);
	if (probe(at, &value) || value != 0)
		return because("reading where nothing is gave %u, not error 0", value);
	return NULL;
}

static const char *with_tables(void)
{
	const char *problem;

	print("Switching to my own %s tables at 0x%x.\n", tables.pae ? "PAE" : "two-level", tables.root);
	tables_use(&tables);
	problem = touch_physical(SALT);
	if (!problem)
		problem = touch_windows();
	if (problem)
		return problem;
	print("%u pages touched through three mappings each.\n", touches);
	problem = accessed_and_dirty();
	if (!problem)
		problem = move_mappings();
	if (!problem)
		problem = move_later();
	if (!problem)
		problem = protections();
	if (!problem)
		print("Mappings follow SET_PTE, the async ring and FLUSH_TLB, and a read-only page stays as "
		      "it is.\n");
	return problem;
}

const char *guest_main(void)
{
	const char *problem;

	touches = option("touches", 256);
	probe_ready();
	tables = tables_create(option_given("pae"));
	tables_ram(&tables, ram_bytes());
	/* Make every table now: behind them, all of RAM is for touching. */
	for (uint32_t at = 0; at < touches * PAGE_BYTES; at += PAGE_BYTES) {
		tables_map(&tables, WINDOW_A + at, 0, 0);
		tables_map(&tables, WINDOW_B + at, 0, 0);
	}
	tables_map(&tables, WINDOW_A - PAGE_BYTES, 0, 0);
	first = pages_free_from() + PAGE_BYTES;
	if (!touches || (ram_bytes() - first) / PAGE_BYTES < touches)
		return because("touches=%u do not fit into %u bytes of RAM", touches, ram_bytes());
	stride = ((ram_bytes() - first) / touches) & ~(PAGE_BYTES - 1);
	for (uint32_t i = 0; i < touches; i++) {
		tables_map(&tables, WINDOW_A + i * PAGE_BYTES, page_of(i), PTE_P | PTE_RW);
		tables_map(&tables, WINDOW_B + i * PAGE_BYTES, page_of(i), PTE_P | PTE_RW);
	}
	problem = touch_physical(~SALT);
	if (problem)
		return problem;
	print("%u pages touched in the 1:1 view, from 0x%x to 0x%x.\n", touches, first, page_of(touches - 1));
	return with_tables();
}
