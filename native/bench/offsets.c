/* The numbers of our headers that the assembler needs; see native/switcher/asm_offsets.c. */
#include "floor.h"
#include "machine.h"

#define CONSTANT(name) __asm__ volatile("->" #name " %0" : : "i"(name))

void asm_offsets(void);

void asm_offsets(void)
{
	CONSTANT(FLOOR_PORT);
	CONSTANT(FLOOR_MMIO);
	CONSTANT(HOST_AREA_BASE);
	CONSTANT(HOST_DS);
}
