/*
 * [M260] The whole firmware.
 *
 * An emulator that starts, or that resets its CPU after a triple fault, begins at
 * the last sixteen bytes below 4 GiB in real mode.  The monitor is in memory
 * already (the runner put it there), so all that is needed is protected mode and a
 * jump.  The interrupt controllers are masked on the way: nobody has told them
 * which vectors to use, and a timer tick on vector 0 or 8 would look like a trap.
 */

#include "conform_offsets.h"

#define ROM_BASE 0xFFFF0000
#define PIC1_DATA 0x21
#define PIC2_DATA 0xA1

	.code16
	.text
rom_start:
	cli
	mov	$0xFF, %al
	out	%al, $PIC1_DATA
	out	%al, $PIC2_DATA
	lgdtl	%cs:(gdt_pointer - rom_start)
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	ljmpl	$CONFORM_CS, $(ROM_BASE + in_protected_mode - rom_start)

	/* [M270] Flat segments, then into memory. */
	.code32
	.globl	in_protected_mode
in_protected_mode:
	mov	$CONFORM_DS, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss

	/* [M280] Bochs gives memory to a machine piece by piece, in the order in which
	 * the pieces are first touched, but has read our image into its store in one
	 * go: so the pieces must be touched in the order of the image, before anything
	 * else is.  Elsewhere this is a loop of nothing. */
	.globl	touch_memory
touch_memory:
	mov	$CONFORM_TEXT, %esi
1:	mov	(%esi), %eax
	add	$CONFORM_PAGE, %esi
	cmp	H_end, %esi
	jb	1b
	mov	$CONFORM_TEXT, %eax
	jmp	*%eax

	.balign	8
gdt:
	.fill	12, 8, 0
	.quad	0x00CF9B000000FFFF, 0x00CF93000000FFFF
gdt_end:
gdt_pointer:
	.word	gdt_end - gdt - 1
	.long	ROM_BASE + gdt - rom_start

	/* [M290] Where every x86 begins. */
	.code16
	.org	0xFFF0
	.globl	reset_vector
reset_vector:
	jmp	rom_start
	.org	0x10000
