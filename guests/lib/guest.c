/*
 * From INIT to guest_main(), and the end.
 *
 * What a Guest tells the Host by INIT is in its data from the start, as it is in a kernel:
 * before its first instructions are over there is nobody who could fill it in.
 */
#include "guest.h"

#include <stdarg.h>

#include "format.h"

#define SHUTDOWN_BYTES 128

extern const uint8_t noirq_begin[], noirq_end[], noirq_iret[], image_end[];

volatile lguest_words lguest = {
    .blocked_interrupts = 1,
    .hcall_status = {[0 ... LHCALL_RING_SIZE - 1] = LHCALL_RING_FREE},
    .kernel_address = PAGE_OFFSET,
    .syscall_vec = SYSCALL_VECTOR,
#if HAS_NOIRQ_IRET
    .noirq_iret = (uint32_t)noirq_iret,
#else
    .noirq_start = (uint32_t)noirq_begin,
    .noirq_end = (uint32_t)noirq_end,
#endif
};

static char last_words[SHUTDOWN_BYTES];
static char why[SHUTDOWN_BYTES];
static uint32_t next_page, next_slot;

void guest_start(void);

void guest_start(void)
{
	const char *problem = guest_main();

	if (problem)
		fail("%s", problem);
	power_off("Power down");
}

/* The status byte is written last: from then on the Host may read the entry. */
void hypercall_later(uint32_t number, uint32_t arg1, uint32_t arg2, uint32_t arg3, uint32_t arg4)
{
	uint32_t before = lguest.irq_enabled;

	interrupts_off();
	if (lguest.hcall_status[next_slot] != LHCALL_RING_FREE) {
		hypercall(number, arg1, arg2, arg3, arg4);
	} else {
#if OLD_ARGUMENTS
		lguest.hcalls[next_slot] = (struct lguest_ring_entry_2624){
		    .number = number, .arg1 = arg1, .arg2 = arg2, .arg3 = arg3};
#elif THREE_ARGUMENTS
		(void)arg4;
		lguest.hcalls[next_slot] = (struct lguest_ring_entry_2630){number, arg1, arg2, arg3};
#else
		lguest.hcalls[next_slot] = (struct lguest_ring_entry){number, arg1, arg2, arg3, arg4};
#endif
		lguest.hcall_status[next_slot] = 0;
		next_slot = (next_slot + 1) % LHCALL_RING_SIZE;
	}
	if (before & EFLAGS_IF_BIT)
		interrupts_on();
}

void power_off(const char *text)
{
	unsigned int i;

	for (i = 0; i < SHUTDOWN_BYTES - 1 && text[i]; i++)
		last_words[i] = text[i];
	last_words[i] = 0;
	hypercall(LHCALL_SHUTDOWN, physical(last_words), CRASH_ONLY ? 0 : LGUEST_SHUTDOWN_POWEROFF, 0, 0);
	for (;;)
		__asm__ volatile("ud2");
}

void fail(const char *format, ...)
{
	char text[SHUTDOWN_BYTES] = "FAILED: ";
	const unsigned int prefix = 8;
	va_list args;

	va_start(args, format);
	format_text(text + prefix, sizeof(text) - prefix, format, args);
	va_end(args);
	print("%s\n", text);
	power_off(text);
}

const char *because(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	format_text(why, sizeof(why), format, args);
	va_end(args);
	return why;
}

const char *command_line(void)
{
	return seen_at(boot_word(BOOT_CMD_LINE_PTR));
}

/* The text behind WORD where it begins an argument, or NULL. */
static const char *argument(const char *word)
{
	const char *at = command_line();

	while (*at) {
		unsigned int i = 0;

		while (word[i] && at[i] == word[i])
			i++;
		if (!word[i])
			return at + i;
		while (*at && *at != ' ')
			at++;
		while (*at == ' ')
			at++;
	}
	return NULL;
}

bool option_given(const char *word)
{
	const char *rest = argument(word);

	return rest && (*rest == 0 || *rest == ' ');
}

uint32_t option(const char *name, uint32_t fallback)
{
	const char *text = argument(name);
	uint32_t base = 10, value = 0;

	if (!text || *text++ != '=')
		return fallback;
	if (text[0] == '0' && text[1] == 'x') {
		base = 16;
		text += 2;
	}
	for (;; text++) {
		uint32_t digit = (uint32_t)*text - '0';

		if (base == 16 && (*text | 0x20) >= 'a')
			digit = (uint32_t)(*text | 0x20) - 'a' + 10;
		if (digit >= base)
			return value;
		value = value * base + digit;
	}
}

uint32_t ram_bytes(void)
{
	return boot_word(BOOT_E820_SIZE);
}

uint32_t boot_word(uint32_t offset)
{
	return *(const volatile uint32_t *)seen_at(offset);
}

uint32_t pages_free_from(void)
{
	if (!next_page)
		next_page = (physical(image_end) + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
	return next_page;
}

uint32_t page_alloc(void)
{
	uint32_t page = pages_free_from();
	uint32_t *words = seen_at(page);

	if (page + PAGE_BYTES > ram_bytes())
		fail("out of memory: %u bytes of RAM are too few", ram_bytes());
	next_page = page + PAGE_BYTES;
	for (unsigned int i = 0; i < PAGE_BYTES / 4; i++)
		words[i] = 0;
	return page;
}
