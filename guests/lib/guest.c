/*
 * From the first instruction to guest_main(), and the end.
 *
 * INIT comes first: it tells the Host where the shared words are.  Before it the
 * Host cannot fake an interrupt flag, take a queued hypercall or reflect a fault.
 */
#include "guest.h"

#include <stdarg.h>

#include "boot.h"
#include "format.h"

/* 3.1 to 4.0 put PAGE_OFFSET here; nothing of ours lives above it, but it marks the layout. */
#define KERNEL_ADDRESS 0xC0000000
#define SHUTDOWN_BYTES 128

extern const uint8_t noirq_begin[], noirq_end[], image_end[];

volatile struct lguest_data_31 lguest;

static char last_words[SHUTDOWN_BYTES];
static char why[SHUTDOWN_BYTES];
static uint32_t next_page, next_slot;

/* Loads from low memory that the compiler must not take for a null pointer. */
static uint32_t word_at(uint32_t physical)
{
	__asm__("" : "+r"(physical));
	return *(const volatile uint32_t *)physical;
}

void guest_start(void);

void guest_start(void)
{
	const char *problem;

	for (unsigned int i = 0; i < LHCALL_RING_SIZE; i++)
		lguest.hcall_status[i] = LHCALL_RING_FREE;
	lguest.blocked_interrupts = 1;
	lguest.kernel_address = KERNEL_ADDRESS;
	lguest.syscall_vec = SYSCALL_VECTOR;
	lguest.noirq_start = (uint32_t)noirq_begin;
	lguest.noirq_end = (uint32_t)noirq_end;
	hypercall(LHCALL_LGUEST_INIT, (uint32_t)&lguest, 0, 0, 0);

	problem = guest_main();
	if (problem)
		fail("%s", problem);
	power_off("Power down");
}

/* The status byte is written last: from then on the Host may read the entry. */
void hypercall_later(uint32_t number, uint32_t arg1, uint32_t arg2, uint32_t arg3, uint32_t arg4)
{
	uint32_t before = lguest.irq_enabled;
	volatile struct lguest_ring_entry *entry = &lguest.hcalls[next_slot];

	interrupts_off();
	if (lguest.hcall_status[next_slot] != LHCALL_RING_FREE) {
		hypercall(number, arg1, arg2, arg3, arg4);
	} else {
		entry->arg0 = number;
		entry->arg1 = arg1;
		entry->arg2 = arg2;
		entry->arg3 = arg3;
		entry->arg4 = arg4;
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
	hypercall(LHCALL_SHUTDOWN, (uint32_t)last_words, LGUEST_SHUTDOWN_POWEROFF, 0, 0);
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
	return (const char *)word_at(BOOT_CMD_LINE_PTR);
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
	return word_at(BOOT_E820_SIZE);
}

uint32_t pages_free_from(void)
{
	if (!next_page)
		next_page = ((uint32_t)image_end + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
	return next_page;
}

uint32_t page_alloc(void)
{
	uint32_t page = pages_free_from();
	uint32_t *words = (uint32_t *)page;

	if (page + PAGE_BYTES > ram_bytes())
		fail("out of memory: %u bytes of RAM are too few", ram_bytes());
	next_page = page + PAGE_BYTES;
	for (unsigned int i = 0; i < PAGE_BYTES / 4; i++)
		words[i] = 0;
	return page;
}
