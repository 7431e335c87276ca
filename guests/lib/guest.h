/*
 * What every small Guest here stands on.
 *
 * A Guest is a kernel that was told it may not touch the machine: it runs at
 * ring 1, in memory that is mapped one to one, with no stack, no gates and no
 * interrupts, and asks the Host for everything by `int $0x1F`.  These are the
 * asking, printing, gates, tables and boot parameters, just enough of each for
 * programs that show one thing.  They speak as a kernel of 3.1 did; a Guest that is
 * built for another generation, and linked where kernels are, defines GENERATION and
 * KERNEL_BASE (generation.h).
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "boot.h"
#include "generation.h"
#include "lguest.h"
#include "machine.h"

/* ---- the Guest's own program -------------------------------------------- */

/* Returns NULL when all went well, or the text of what went wrong. */
const char *guest_main(void);

/* Tells the Launcher to load this image N times into one Machine. */
#define GUEST_COPIES(n)                                                                                      \
	__asm__(".pushsection .note.kvmhost, \"a\", @note\n\t"                                               \
		".long 8, 4, 1\n\t"                                                                          \
		".asciz \"kvmhost\"\n\t"                                                                     \
		".long " #n "\n\t"                                                                           \
		".popsection")

/* ---- hypercalls ---------------------------------------------------------- */

/* The words that Host and Guest share; the first of them is the virtual IF. */
#if OLD_ARGUMENTS
typedef struct lguest_data_2624 lguest_words;
#elif THREE_ARGUMENTS
typedef struct lguest_data_2630 lguest_words;
#elif GENERATION < KERNEL(3, 1, 0)
typedef struct lguest_data_2631 lguest_words;
#elif GENERATION < KERNEL(4, 1, 0)
typedef struct lguest_data_31 lguest_words;
#else
typedef struct lguest_data_41 lguest_words;
#endif
extern volatile lguest_words lguest;

static inline uint32_t hypercall(uint32_t number, uint32_t arg1, uint32_t arg2, uint32_t arg3, uint32_t arg4)
{
#if OLD_ARGUMENTS
	(void)arg4;
	__asm__ volatile("int $0x1F" : "+a"(number) : "d"(arg1), "b"(arg2), "c"(arg3) : "memory");
#elif BY_VMCALL
	__asm__ volatile(".byte 0x0F, 0x01, 0xC1"
			 : "+a"(number)
			 : "b"(arg1), "c"(arg2), "d"(arg3), "S"(arg4)
			 : "memory");
#else
	__asm__ volatile("int $0x1F" : "+a"(number) : "b"(arg1), "c"(arg2), "d"(arg3), "S"(arg4) : "memory");
#endif
	return number;
}

/* Hypercalls, tables and devices take physical addresses. */
static inline uint32_t physical(const volatile void *object)
{
	return (uint32_t)object - KERNEL_BASE;
}

/* Where RAM at this address is seen.  The compiler is not to take the beginning of it for nothing. */
static inline void *seen_at(uint32_t physical)
{
	uint32_t at = physical + KERNEL_BASE;

	__asm__("" : "+r"(at));
	return (void *)at;
}

/*
 * Queues a call in the async ring: it is done, in order, before the next direct call.  With
 * the ring full the call is made directly.
 */
void hypercall_later(uint32_t number, uint32_t arg1, uint32_t arg2, uint32_t arg3, uint32_t arg4);

/* Ends the Guest.  The Host reads 128 bytes of text, so the text is copied to a buffer of that size. */
__attribute__((noreturn)) void power_off(const char *text);
__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...);
/* fail() in the form that guest_main() returns: the text lives until the next call. */
__attribute__((format(printf, 1, 2))) const char *because(const char *format, ...);

/* ---- printing ------------------------------------------------------------ */

/* %u %x %c %s %%, with a width and zeros as in %08x. */
__attribute__((format(printf, 1, 2))) void print(const char *format, ...);

/* From now on whole texts go to SPEAKER instead of the early console. */
void print_through(void (*speaker)(const char *text));

/* ---- what the Launcher left in memory ------------------------------------ */

const char *command_line(void);
/* The number after "name=" on the command line (decimal, or 0x...), else FALLBACK. */
uint32_t option(const char *name, uint32_t fallback);
bool option_given(const char *word);
/* Bytes of RAM, from the one e820 entry. */
uint32_t ram_bytes(void);
/* A word of the boot parameters, by its offset. */
uint32_t boot_word(uint32_t offset);
/* The address of a zeroed page behind the image that nobody else gets. */
uint32_t page_alloc(void);
/* Everything below is the image, its tables and boot parameters. */
uint32_t pages_free_from(void);
/* Registers as they were before the first instruction: EAX EBX ECX EDX ESI EDI EBP ESP. */
extern uint32_t born_with[8];

/* ---- traps and interrupts ------------------------------------------------ */

#define EFLAGS_TF 0x00000100
#define EFLAGS_IF 0x00000200
#define EFLAGS_NT 0x00004000
#define EFLAGS_AC 0x00040000

#define GATE_INTERRUPT 0xE
#define GATE_TRAP 0xF
#define TIMER_VECTOR LGUEST_IRQ_BASE

/* What the stub, and before it the CPU or the Host, pushed. */
struct trap_frame {
	uint32_t es, ds;
	uint32_t edi, esi, ebp, unused_esp, ebx, edx, ecx, eax;
	uint32_t vector, error;
	uint32_t eip, cs, eflags;
	uint32_t esp, ss; /* only when the trap came from ring 3 */
};

typedef void (*trap_handler)(struct trap_frame *frame);

/* Sends VECTOR to HANDLER through a gate of TYPE that rings up to DPL may call. */
void set_gate(uint32_t vector, uint32_t type, uint32_t dpl, trap_handler handler);
void set_descriptor(uint32_t index, uint32_t base, uint32_t low, uint32_t high);
void user_segments(void);

/* The top of the stack on which traps from ring 3 arrive. */
extern uint8_t trap_stack_top[];
void set_trap_stack(void);

static inline void interrupts_off(void)
{
	lguest.irq_enabled = 0;
}

/* Asks for whatever waits to come now. */
static inline void send_interrupts(void)
{
#if SENDS_BY_VMCALL
	uint32_t number = LHCALL_SEND_INTERRUPTS;

	__asm__ volatile(".byte 0x0F, 0x01, 0xC1" : "+a"(number) : : "memory");
#else
	hypercall(LHCALL_SEND_INTERRUPTS, 0, 0, 0, 0);
#endif
}

/* As kernels restore their flags: from 2.6.31 on they look whether the Host has something. */
static inline void interrupts_on(void)
{
	lguest.irq_enabled = EFLAGS_IF_BIT;
#if HAS_IRQ_PENDING
	if (lguest.irq_pending)
		send_interrupts();
#endif
}

/* Reads a word that may not be there: true and the word, or false and the fault's error code. */
bool probe(uint32_t linear, uint32_t *value);
/* Writes one: true, or false and the fault's error code. */
bool poke(uint32_t linear, uint32_t *value);
/* Takes vector 14 for the two of them. */
void probe_ready(void);

/* Where the CPU's Guest GDT is, and with it the pair of pages this Guest runs on. */
static inline uint32_t gdt_base(void)
{
	struct {
		uint16_t pad, limit;
		uint32_t base;
	} table;

	__asm__ volatile("sgdt %0" : "=m"(table.limit), "=m"(table.base));
	return table.base;
}

static inline uint32_t current_pair(void)
{
	return (gdt_base() & ~(PAGE_BYTES - 1)) - PAGE_BYTES;
}

static inline uint32_t pair_number(uint32_t pair)
{
	return (pair - SWITCHER_BASE - PAGE_BYTES) / PAIR_SIZE;
}

/* ---- page tables --------------------------------------------------------- */

#define PTE_P 0x001
#define PTE_RW 0x002
#define PTE_USER 0x004
#define PTE_PCD 0x010
#define PTE_A 0x020
#define PTE_D 0x040
#define PDE_FLAGS 0x067

struct tables {
	uint32_t root; /* physical, what CR3 would hold */
	bool pae;
};

struct tables tables_create(bool pae);
/* Maps one page; flags 0 removes it.  Tells the Host nothing. */
void tables_map(const struct tables *tables, uint32_t linear, uint32_t physical, uint32_t flags);
/* The physical address of LINEAR's entry on the lowest level. */
uint32_t tables_entry(const struct tables *tables, uint32_t linear);
/* RAM from 0 up to BYTES where this Guest is linked to see it, for ring 1 alone. */
void tables_ram(const struct tables *tables, uint32_t bytes);
void tables_use(const struct tables *tables);
void tables_flush(void);
/* Shows device memory, or rings above RAM, in the tables in use. */
volatile void *device_memory(uint32_t physical, uint32_t bytes);
/* tables_map() and the hypercall that tells the Host about it. */
void tables_set(const struct tables *tables, uint32_t linear, uint32_t physical, uint32_t flags);

/* ---- ring 3 --------------------------------------------------------------- */

/* The part of the image that programs mark as the user's. */
#define USER_CODE __attribute__((section(".user.text"), noinline))
#define USER_DATA __attribute__((section(".user.data")))
extern uint8_t user_begin[], user_end[], user_load[];

/* Lets ring 3 at the user part of the image. */
void tables_map_user(const struct tables *tables);
/* Runs PROGRAM at ring 3 until a trap handler calls leave_user(), and returns its RESULT. */
uint32_t enter_user(void (*program)(void), uint32_t stack);
void leave_user(struct trap_frame *frame, uint32_t result);

#endif
