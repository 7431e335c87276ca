/*
 * What the Guest "pair" counts, at an address that never moves, so that a test can
 * read it from outside while the Guest runs.
 *
 * Plain #defines beside the structures, for the assembler.
 */
#ifndef PAIR_H
#define PAIR_H

#define PAIR_REPORT_ADDRESS 0x100000 /* Guest-physical, symbol pair_report */
#define PAIR_REPORT_MAGIC 0x52494150 /* "PAIR" */

#define PAIR_STATE_BYTES 640
#define PAIR_FXSAVE 0 /* 512 bytes */
#define PAIR_EAX 512
#define PAIR_EBX 516
#define PAIR_ECX 520
#define PAIR_EDX 524
#define PAIR_ESI 528
#define PAIR_EDI 532
#define PAIR_EBP 536
#define PAIR_EFLAGS 540
#define PAIR_DS 544
#define PAIR_ES 548
#define PAIR_FS 552
#define PAIR_GS 556
#define PAIR_GS_WORD 560 /* what %gs:0 showed */
#define PAIR_MMX 576 /* 8 values for MM0 to MM7, or zero for x87 */

#ifndef __ASSEMBLER__
#include <stdint.h>

struct pair_report {
	uint32_t magic;
	uint32_t copy; /* 0 or 1 */
	uint32_t rounds; /* every register filled, left alone, and compared */
	uint32_t compared; /* registers and fields compared in them */
	uint32_t ticks; /* clock interrupts, each a whole switch at least */
	uint32_t moves; /* times another pair was found than before */
	uint32_t cpus_seen; /* bit n: pair n */
	uint32_t probes; /* pages of other CPUs' pairs that were read, and absent */
	uint32_t retries; /* loads that succeeded because the CPU changed meanwhile */
	uint32_t roots; /* page tables switched to */
	uint32_t first_pair; /* linear addresses of the first two pairs seen */
	uint32_t second_pair;
};
#endif

#endif
