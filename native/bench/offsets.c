/* The numbers of floor.h that the assembler needs; see native/switcher/asm_offsets.c. */
#include "floor.h"

#define CONSTANT(name) __asm__ volatile("->" #name " %0" : : "i"(name))

void asm_offsets(void);

void asm_offsets(void)
{
	CONSTANT(FLOOR_PORT);
	CONSTANT(FLOOR_MMIO);
}
