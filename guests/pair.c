/*
 * Two Guests in one Machine (the image asks for two copies of itself), on the same CPUs and
 * in turns.  Each fills every register it has, x87 or MMX, SSE and segments included, with a
 * pattern of its own, dwells, and compares: a trace of the other would be a difference.  It
 * notes on which CPUs' pairs of pages it finds itself, and reads at the addresses of all the
 * other pairs, under several page tables, where nothing may ever be.  After ticks=N clock
 * interrupts (200 unless told; period=N nanoseconds, dwell=N loops) it says what it counted.
 */
#include "guest.h"

#include "pair.h"

GUEST_COPIES(2);

#define ROOTS 5
#define IDENTITY_BYTES 0x400000
#define PERIOD_NS 1000000
#define TLS_FIRST 6
#define TLS_SELECTOR(n) ((TLS_FIRST + (n)) * 8 + 3)
#define ROUNDS_PER_ROOT 16

/* Everything pair_round() loads and stores; offsets as in pair.h. */
struct pair_state {
	uint8_t fxsave[512];
	uint32_t eax, ebx, ecx, edx, esi, edi, ebp, eflags;
	uint32_t ds, es, fs, gs;
	uint32_t gs_word, pad[3];
	uint32_t mmx[16];
};

_Static_assert(sizeof(struct pair_state) == PAIR_STATE_BYTES, "pair.h");
_Static_assert(offsetof(struct pair_state, mmx) == PAIR_MMX, "pair.h");
_Static_assert(offsetof(struct pair_state, gs_word) == PAIR_GS_WORD, "pair.h");

void pair_round(const struct pair_state *want, struct pair_state *got, uint32_t dwell);

extern volatile struct pair_report pair_report;

static struct pair_state want __attribute__((aligned(16))), got __attribute__((aligned(16)));
static uint32_t tls_words[4], wanted, period, seed;
static struct tables roots[ROOTS];

/* FXSAVE areas, "FXSAVE Area and State Management": byte offsets. */
#define FX_FCW 0
#define FX_FSW 2
#define FX_FTW 4
#define FX_MXCSR 24
#define FX_ST 32
#define FX_XMM 160
#define FX_END 288

static uint32_t random(void)
{
	/* Xorshift: the two copies start from different seeds and never meet. */
	seed ^= seed << 13;
	seed ^= seed >> 17;
	seed ^= seed << 5;
	return seed;
}

static void note_cpu(uint32_t pair)
{
	static uint32_t last;

	if (last && pair != last) {
		pair_report.moves++;
		if (!pair_report.second_pair)
			pair_report.second_pair = pair;
	}
	if (!last)
		pair_report.first_pair = pair;
	last = pair;
	pair_report.cpus_seen |= 1u << pair_number(pair);
}

static void timer(struct trap_frame *frame)
{
	(void)frame;
	pair_report.ticks++;
	if (pair_report.ticks < wanted)
		hypercall(LHCALL_SET_CLOCKEVENT, period, 0, 0, 0);
}

/* A pattern for the FPU: any control word that masks all, any bits in any register. */
static void fill_fpu(bool mmx)
{
	uint16_t *half = (uint16_t *)want.fxsave;
	uint32_t *word32 = (uint32_t *)want.fxsave;

	for (unsigned int i = FX_ST / 4; i < FX_END / 4; i++)
		word32[i] = random();
	half[FX_FCW / 2] = 0x037F ^ (random() & 0x0F00);
	half[FX_FSW / 2] = random() & 0x7F00 & ~0x3800u;
	half[FX_FTW / 2] = 0xFF;
	word32[FX_MXCSR / 4] = 0x1F80 | (random() & 0x603F);
	for (unsigned int i = 0; i < 8; i++) {
		/* Bytes 10 to 15 of each are reserved; a normal number, so that no format is better than
		 * another. */
		half[(FX_ST + 16 * i + 8) / 2] = (uint16_t)(0x3F00 + (random() & 0x80FF));
		want.fxsave[FX_ST + 16 * i + 7] |= 0x80;
		for (unsigned int byte = 10; byte < 16; byte++)
			want.fxsave[FX_ST + 16 * i + byte] = 0;
	}
	for (unsigned int i = 0; i < 16; i++)
		want.mmx[i] = mmx ? random() | 1 : 0;
}

static void fill(void)
{
	static const uint32_t data[] = {GUEST_DS, USER_DS};
	static const uint32_t other[] = {0, GUEST_DS, USER_DS, TLS_SELECTOR(0), TLS_SELECTOR(1)};

	fill_fpu(pair_report.rounds & 1);
	want.eax = random();
	want.ebx = random();
	want.edx = random();
	want.esi = random();
	want.edi = random();
	want.ebp = random();
	/* CF PF AF ZF SF DF OF NT AC ID; IF and bit 1 are always set. */
	want.eflags = (random() & 0x00244CD5) | 0x202;
	want.ds = data[random() % 2];
	want.es = other[random() % 5];
	want.fs = other[random() % 5];
	want.gs = TLS_SELECTOR(random() % 2);
}

static void same(const char *name, uint32_t is, uint32_t should)
{
	pair_report.compared++;
	if (is != should)
		fail("copy %u round %u: %s is 0x%x, not 0x%x", pair_report.copy, pair_report.rounds, name, is,
		     should);
}

static void compare_fpu(void)
{
	const uint32_t *is = (const uint32_t *)got.fxsave, *should = (const uint32_t *)want.fxsave;
	const uint16_t *half = (const uint16_t *)got.fxsave;

	same("FPU control", half[FX_FCW / 2], ((const uint16_t *)want.fxsave)[FX_FCW / 2]);
	same("FPU tags", got.fxsave[FX_FTW], 0xFF);
	same("MXCSR", is[FX_MXCSR / 4], should[FX_MXCSR / 4]);
	if (!want.mmx[0])
		same("FPU status", half[FX_FSW / 2], ((const uint16_t *)want.fxsave)[FX_FSW / 2]);
	for (unsigned int i = 0; i < 8; i++) {
		unsigned int at = (FX_ST + 16 * i) / 4;

		same("ST or MM, low", is[at], want.mmx[0] ? want.mmx[2 * i] : should[at]);
		same("ST or MM, high", is[at + 1], want.mmx[0] ? want.mmx[2 * i + 1] : should[at + 1]);
		/* Writing MMn sets STn's exponent to all ones; emulators may leave it alone. */
		if (!want.mmx[0] || (is[at + 2] & 0xFFFF) != 0xFFFF)
			same("ST exponent", is[at + 2] & 0xFFFF, should[at + 2] & 0xFFFF);
	}
	for (unsigned int at = FX_XMM / 4; at < FX_END / 4; at++)
		same("XMM", is[at], should[at]);
}

static void compare(uint32_t dwell)
{
	same("EAX", got.eax, want.eax + dwell);
	same("EBX", got.ebx, want.ebx);
	same("ECX", got.ecx, 0);
	same("EDX", got.edx, want.edx);
	same("ESI", got.esi, want.esi);
	same("EDI", got.edi, want.edi);
	same("EBP", got.ebp, want.ebp);
	same("EFLAGS", got.eflags, want.eflags);
	same("DS", got.ds, want.ds);
	same("ES", got.es, want.es);
	same("FS", got.fs, want.fs);
	same("GS", got.gs, want.gs);
	/* The descriptor behind GS is ours too, not only its number. */
	same("GS:0", got.gs_word, tls_words[(want.gs >> 3) - TLS_FIRST + 2 * pair_report.copy]);
	compare_fpu();
}

/*
 * Reads one page of a pair.  A fault is always an answer: the page is absent on whatever CPU
 * the load ran, and its own pair never is.  A load that succeeds is one only if this CPU was
 * another before and after it, twice running: once may be a visit to that CPU and back.
 */
static void probe_absent(uint32_t pair, uint32_t page)
{
	uint32_t value = 0, readable = 0;

	while (readable < 2) {
		uint32_t before = current_pair();

		note_cpu(before);
		if (pair == before)
			return;
		if (!probe(pair + page, &value)) {
			if (value)
				fail("reading 0x%x gave error %u, not 0", pair + page, value);
			pair_report.probes++;
			return;
		}
		pair_report.retries++;
		readable = current_pair() == before ? readable + 1 : 0;
	}
	fail("copy %u can read 0x%x, of another CPU's pair", pair_report.copy, pair + page);
}

static void probe_pairs(void)
{
	for (uint32_t n = 0; n < MAX_CPUS; n++) {
		probe_absent(SWITCHER_BASE + PAGE_BYTES + n * PAIR_SIZE, 0);
		probe_absent(SWITCHER_BASE + PAGE_BYTES + n * PAIR_SIZE, PAGE_BYTES);
	}
}

/* Thread-local segments whose first word tells whose they are: two for FS and GS, a flat one. */
static void tls_segments(void)
{
	static uint32_t descriptors[6];

	for (uint32_t i = 0; i < 4; i++)
		tls_words[i] = 0xC0FFEE00 + i;
	for (uint32_t i = 0; i < 2; i++) {
		uint32_t base = (uint32_t)&tls_words[i + 2 * pair_report.copy];

		descriptors[2 * i] = 0x0000000F | base << 16;
		descriptors[2 * i + 1] = 0x0040F300 | (base & 0xFF000000) | (base >> 16 & 0xFF);
	}
	descriptors[4] = 0x0000FFFF;
	descriptors[5] = 0x00CFF300;
	hypercall(LHCALL_LOAD_TLS, (uint32_t)descriptors, 0, 0, 0);
}

static void prepare(void)
{
	pair_report.magic = PAIR_REPORT_MAGIC;
	pair_report.copy = option("copy", 0) & 1;
	seed = 0x2545F491 + 0x6C078965 * pair_report.copy;
	wanted = option("ticks", 200);
	period = option("period", PERIOD_NS);
	user_segments();
	tls_segments();
	/* Several top levels over the same lower tables: more than the four that the Host keeps. */
	for (unsigned int i = 0; i < ROOTS; i++)
		roots[i] = tables_create(false);
	tables_ram(&roots[0], IDENTITY_BYTES);
	for (unsigned int i = 1; i < ROOTS; i++)
		*(volatile uint32_t *)roots[i].root = *(volatile uint32_t *)roots[0].root;
	probe_ready();
	set_gate(TIMER_VECTOR, GATE_INTERRUPT, 0, timer);
	lguest.blocked_interrupts = 0;
}

const char *guest_main(void)
{
	uint32_t dwell = option("dwell", 20000);

	prepare();
	probe_pairs();
	interrupts_on();
	hypercall(LHCALL_SET_CLOCKEVENT, period, 0, 0, 0);
	while (pair_report.ticks < wanted) {
		if (pair_report.rounds % ROUNDS_PER_ROOT == 0) {
			tables_use(&roots[pair_report.roots++ % ROOTS]);
			probe_pairs();
		}
		fill();
		pair_round(&want, &got, dwell);
		compare(dwell);
		pair_report.rounds++;
		note_cpu(current_pair());
	}
	print("Copy %u: %u rounds, %u registers compared, %u ticks, %u moves, CPUs 0x%x,\n", pair_report.copy,
	      pair_report.rounds, pair_report.compared, pair_report.ticks, pair_report.moves,
	      pair_report.cpus_seen);
	print("other CPUs' pages read %u times under %u page tables and always absent.\n", pair_report.probes,
	      pair_report.roots);
	return NULL;
}
