/*
 * The async ring: everything in it is done, once and in its order, before the direct call that
 * follows it; and it is a ring, so all of that must hold beyond its end.
 */
#include "checks.h"

#define WINDOWS LHCALL_RING_SIZE
#define MARK 0x51060000
#define TLS_FIRST 0x33
#define TLS_DESCRIPTORS 5

static uint32_t tls[TLS_DESCRIPTORS][6];

/* Thread-local segments tell apart which call was done last: each has a limit of its own. */
static const char *check_order(void)
{
	for (uint32_t i = 0; i < TLS_DESCRIPTORS; i++) {
		tls[i][0] = 0x1000 + i;
		tls[i][1] = 0x0040F300;
	}
	hypercall_later(LHCALL_LOAD_TLS, physical(tls[0]), 0, 0, 0);
	hypercall_later(LHCALL_LOAD_TLS, physical(tls[1]), 0, 0, 0);
	hypercall(LHCALL_LOAD_TLS, physical(tls[2]), 0, 0, 0);
	if (limit_of(TLS_FIRST) != 0x1002)
		return because("call %u was done last, not the direct one", limit_of(TLS_FIRST) - 0x1000);
	hypercall_later(LHCALL_LOAD_TLS, physical(tls[4]), 0, 0, 0);
	hypercall_later(LHCALL_LOAD_TLS, physical(tls[3]), 0, 0, 0);
	hypercall(LHCALL_FLUSH_ASYNC, 0, 0, 0, 0);
	if (limit_of(TLS_FIRST) != 0x1003)
		return because("call %u was done last, not the fourth", limit_of(TLS_FIRST) - 0x1000);
	return NULL;
}

/* Every slot is used, from the middle on, and one more call is made than there is room. */
static const char *check_lap(void)
{
	uint32_t before = marked_page(MARK), after = marked_page(MARK + 1);

	for (uint32_t i = 0; i < WINDOWS; i++) {
		tables_map(&swapper, USER_WINDOW + i * PAGE_BYTES, before, PTE_P | PTE_RW);
		if (*word_at(USER_WINDOW + i * PAGE_BYTES) != MARK)
			return because("window %u shows nothing", i);
	}
	for (uint32_t i = 0; i < WINDOWS; i++) {
		uint32_t at = USER_WINDOW + i * PAGE_BYTES;

		tables_map(&swapper, at, after, PTE_P | PTE_RW);
		hypercall_later(LHCALL_SET_PTE, swapper.root, at, after | PTE_P | PTE_RW, 0);
	}
	hypercall_later(LHCALL_FLUSH_ASYNC, 0, 0, 0, 0);
	for (uint32_t i = 0; i < LHCALL_RING_SIZE; i++)
		if (lguest.hcall_status[i] != LHCALL_RING_FREE)
			return because("slot %u is still taken", i);
	for (uint32_t i = 0; i < WINDOWS; i++)
		if (*word_at(USER_WINDOW + i * PAGE_BYTES) != MARK + 1)
			return because("call %u of the lap was not done", i);
	return NULL;
}

const char *check_ring(void)
{
	const char *problem = check_order();

	return problem ? problem : check_lap();
}
