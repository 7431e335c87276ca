/*
 * A kernel of its release as far as the Host can tell, and a test of the Host: there is one
 * of it for every generation of lguest's ABI, and it is born, asks and traps as Linux of that
 * release did, looks at what comes of it, and powers off if everything was as that kernel
 * needs it.
 *
 * What differs between the generations is in lib/generation.h; what is checked, in generation/.
 */
#include "generation/checks.h"

static const struct {
	const char *name;
	const char *(*run)(void);
} checks[] = {
    {"birth", check_birth},	  {"INIT", check_init},	    {"own tables", check_tables},
    {"async ring", check_ring},	  {"paging", check_paging}, {"directories", check_directories},
    {"segments", check_segments}, {"traps", check_traps},   {"ring 3", check_rings},
    {"CPU", check_cpu},		  {"module", check_module}, {"interrupts", check_interrupts},
    {"iret", check_window},	  {"sleep", check_sleep},
};

const char *guest_main(void)
{
	print("Speaking as %u.%u.%u%s:", GENERATION >> 16, GENERATION >> 8 & 0xFF, GENERATION & 0xFF,
	      PAE ? " with PAE" : "");
	for (unsigned int i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
		const char *problem = checks[i].run();

		if (problem) {
			print("\n%s: %s\n", checks[i].name, problem);
			return problem;
		}
		print("%s %s", i ? "," : "", checks[i].name);
	}
	print(".\n");
	return NULL;
}
