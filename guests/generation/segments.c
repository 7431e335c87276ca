/*
 * Descriptors: what the Host makes of those that a kernel loads, and that they are the ones
 * the CPU uses.
 */
#include "checks.h"

#define SPARE 21
#define SPARE_LIMIT 0x123
/* As LAR shows it: present, DPL 1, writable data, accessed. */
#define SPARE_RIGHTS 0x0040B300
#define RIGHTS_MASK 0x00F0FF00
#define TLS_MIDDLE 0x3B
#define TLS_MARK 0x7157A615

USER_DATA static volatile uint32_t user_selector;
USER_DATA static uint32_t tls_area[4] = {0, 0, TLS_MARK, 0};

/* Access rights of a descriptor, or 0 where ring 1 may see none. */
static uint32_t rights_of(uint32_t selector)
{
	uint32_t rights = 0;

	__asm__ volatile("lar %1, %0; jz 1f; xorl %0, %0; 1:" : "+r"(rights) : "r"(selector) : "cc");
	return rights & RIGHTS_MASK;
}

USER_CODE static void read_tls(void)
{
	uint32_t word;

	__asm__ volatile("movl %1, %%gs; movl %%gs:8, %0; movl %2, %%gs"
			 : "=&r"(word)
			 : "r"(user_selector), "r"(0));
	user_exit(word);
}

/* Segments of a thread, as a C library makes them: a base of its own, read at ring 3. */
static const char *check_tls(void)
{
	static uint32_t descriptors[6];
	uint32_t base = (uint32_t)tls_area;
	struct met met;

	descriptors[2] = 0x0000000F | base << 16;
	descriptors[3] = 0x0040F200 | (base & 0xFF000000) | (base >> 16 & 0xFF);
	hypercall_later(LHCALL_LOAD_TLS, physical(descriptors), 0, 0, 0);
	hypercall(LHCALL_FLUSH_ASYNC, 0, 0, 0, 0);
	user_selector = TLS_MIDDLE;
	met = run_at_ring_3(read_tls);
	if (met.vector != SYSCALL_VECTOR)
		return because("ring 3 met trap %u, error 0x%x, on its TLS", met.vector, met.error);
	if (met.result != TLS_MARK)
		return because("TLS shows 0x%x to ring 3", met.result);
	return NULL;
}

const char *check_segments(void)
{
	/* DPL 0 and never accessed: both would be wrong in a table that ring 1 uses and nobody writes. */
	set_descriptor(SPARE, 0x00345678, SPARE_LIMIT, 0x00409200);
	if (limit_of(SPARE << 3) != SPARE_LIMIT)
		return because("limit 0x%x instead of 0x%x", limit_of(SPARE << 3), SPARE_LIMIT);
	if (rights_of(SPARE << 3) != SPARE_RIGHTS)
		return because("rights 0x%x instead of 0x%x", rights_of(SPARE << 3), SPARE_RIGHTS);
	if (rights_of(GUEST_CS) == 0 || rights_of(GUEST_DS) == 0)
		return "the kernel's own segments are not to be seen";
	/* The Switcher's, which no Guest replaces. */
	set_descriptor(LGUEST_DS >> 3, 0, 0x0000FFFF, 0x00CFF300);
	if (rights_of(LGUEST_DS | 3))
		return "a descriptor of the Switcher's was replaced";
	user_segments();
	ring_3_ready();
	if ((rights_of(USER_DS) & 0x6000) != 0x6000)
		return because("the user's segment has rights 0x%x", rights_of(USER_DS));
	return check_tls();
}
