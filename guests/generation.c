/*
 * A kernel of its release as far as the Host can tell, and a test of the Host: there is one
 * of it for every generation of lguest's ABI, and it is born, asks and traps as Linux of that
 * release did, looks at what comes of it, and powers off if everything was as that kernel
 * needs it.  On its command line "console", "block", "rng" and "net" make it drive those
 * devices, too, and "only" nothing else.
 *
 * What differs between the generations is in lib/generation.h; what is checked, in generation/.
 */
#include "generation/checks.h"

/* Early words cost eight port accesses a character there. */
#define BRIEF HAS_PCI

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

/* Those that need a device are asked for on the command line. */
static const struct {
	const char *word;
	const char *(*run)(void);
} devices[] = {{"console", check_console}, {"block", check_block}, {"rng", check_rng}, {"net", check_net}};

static const char *check_devices(void)
{
	for (unsigned int i = 0; i < sizeof(devices) / sizeof(devices[0]); i++) {
		const char *problem = option_given(devices[i].word) ? devices[i].run() : NULL;

		if (problem) {
			print("%s: %s\n", devices[i].word, problem);
			return problem;
		}
	}
	return NULL;
}

const char *guest_main(void)
{
	print("Speaking as %u.%u.%u%s%s", GENERATION >> 16, GENERATION >> 8 & 0xFF, GENERATION & 0xFF,
	      PAE ? " with PAE" : "", BRIEF ? ".\n" : ":");
	for (unsigned int i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
		const char *problem;

		if (option_given("only") && checks[i].run != check_tables)
			continue;
		problem = checks[i].run();
		if (problem) {
			print("\n%s: %s\n", checks[i].name, problem);
			return problem;
		}
		if (!BRIEF)
			print("%s %s", i ? "," : "", checks[i].name);
	}
	if (!BRIEF)
		print(".\n");
	return check_devices();
}
