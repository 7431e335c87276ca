/* What the monitor's assembler must know of the batch: see native/switcher/asm_offsets.c. */
#include <stddef.h>

#include "conform.h"

#define DEFINE(name, value) __asm__ volatile("->" #name " %0" : : "i"(value))
#define CONSTANT(name) __asm__ volatile("->" #name " %0" : : "i"(name))
#define HEADER(field) DEFINE(H_##field, CONFORM_HEADER + offsetof(struct conform_header, field))
#define CASE(field) DEFINE(C_##field, offsetof(struct conform_case, field))
#define LAUNCH(field)                                                                                        \
	DEFINE(L_##field, CONFORM_SAVE + CONFORM_LAUNCH_CASE + offsetof(struct conform_case, field))
#define SAVED(field) DEFINE(S_##field, CONFORM_SAVE + offsetof(struct conform_saved, field))
#define RESULT(field) DEFINE(R_##field, offsetof(struct conform_result, field))
#define PATCH(field) DEFINE(P_##field, offsetof(struct conform_patch, field))
#define WATCH(field) DEFINE(W_##field, offsetof(struct conform_watch, field))
#define MSR(field) DEFINE(M_##field, offsetof(struct conform_msr, field))

void asm_offsets(void);

void asm_offsets(void)
{
	CONSTANT(CONFORM_TEXT);
	CONSTANT(CONFORM_COLLECT);
	CONSTANT(CONFORM_SHADOW);
	CONSTANT(CONFORM_ARENA);
	CONSTANT(CONFORM_ARENA_PAGES);
	CONSTANT(CONFORM_PAGE);
	CONSTANT(CONFORM_SAVE);
	CONSTANT(CONFORM_STACK_END);
	CONSTANT(CONFORM_CS);
	CONSTANT(CONFORM_DS);
	CONSTANT(CONFORM_TSS);
	CONSTANT(CONFORM_PORT_END);
	CONSTANT(CONFORM_PORT_EXTERNAL);
	CONSTANT(CONFORM_SETUP);
	CONSTANT(CONFORM_IDLE);
	CONSTANT(CONFORM_RUNNING);
	CONSTANT(CONFORM_DONE);
	CONSTANT(CONFORM_TRAP);
	CONSTANT(CONFORM_SHUTDOWN);
	CONSTANT(CONFORM_BAD_SETUP);
	CONSTANT(CONFORM_EXTERNAL);
	CONSTANT(CONFORM_PHASE_START);
	CONSTANT(CONFORM_PHASE_END);
	CONSTANT(CONFORM_STACK_WORDS);
	DEFINE(CASE_BYTES, sizeof(struct conform_case));
	DEFINE(SAVED_BYTES, sizeof(struct conform_saved));
	DEFINE(RESULT_BYTES, sizeof(struct conform_result));
	DEFINE(PATCH_BYTES, sizeof(struct conform_patch));
	DEFINE(WATCH_BYTES, sizeof(struct conform_watch));
	DEFINE(MSR_BYTES, sizeof(struct conform_msr));
	DEFINE(LAUNCH_FROM, offsetof(struct conform_case, gs));
	DEFINE(LAUNCH_WORDS, (sizeof(struct conform_case) - offsetof(struct conform_case, gs)) / 4);
	DEFINE(LAUNCH_STACK, CONFORM_SAVE + CONFORM_LAUNCH);
	DEFINE(LAUNCH_CASE, CONFORM_SAVE + CONFORM_LAUNCH_CASE);
	DEFINE(LAUNCH_INNER, CONFORM_SAVE + CONFORM_INNER);

	HEADER(cases);
	HEADER(count);
	HEADER(current);
	HEADER(state);
	HEADER(reason);
	HEADER(loaded);
	HEADER(stale);
	HEADER(end);
	HEADER(msrs_set);

	CASE(template);
	CASE(flags);
	CASE(result);
	CASE(patches);
	CASE(patch_count);
	CASE(watches);
	CASE(watch_count);
	CASE(msrs);
	CASE(msr_count);
	CASE(gdt);
	CASE(tr);
	CASE(ldtr);
	CASE(cr2);
	CASE(dr);
	CASE(dr6);
	CASE(eip);
	CASE(cs);
	CASE(eflags);
	CASE(esp);
	CASE(ss);

	LAUNCH(flags);
	LAUNCH(idt);
	LAUNCH(cr0);
	LAUNCH(cr3);
	LAUNCH(cr4);
	LAUNCH(dr7);

	SAVED(phase);
	SAVED(flags);
	SAVED(eflags);
	SAVED(eax);
	SAVED(ecx);
	SAVED(edx);
	SAVED(ebx);
	SAVED(esp);
	SAVED(ebp);
	SAVED(esi);
	SAVED(edi);
	SAVED(es);
	SAVED(cs);
	SAVED(ss);
	SAVED(ds);
	SAVED(fs);
	SAVED(gs);
	SAVED(cr0);
	SAVED(cr2);
	SAVED(cr3);
	SAVED(cr4);
	SAVED(dr);
	SAVED(dr6);
	SAVED(dr7);
	SAVED(gdt);
	SAVED(idt);
	SAVED(tr);
	SAVED(ldtr);
	SAVED(stack_words);
	SAVED(stack);

	RESULT(outcome);
	RESULT(changed);
	RESULT(vector);
	RESULT(error);
	RESULT(eip);
	RESULT(saved);

	PATCH(address);
	PATCH(size);
	PATCH(data);
	WATCH(address);
	WATCH(size);
	MSR(number);
	MSR(low);
	MSR(high);
	MSR(old_low);
	MSR(old_high);
}
