/*
 * [V10] The 256 stubs.
 *
 * While a Guest runs, every gate that is not the Guest's own leads to one of
 * these.  The CPU has already changed to the stack named by the Guest's TSS,
 * which is the end of the register page, and pushed SS, ESP, EFLAGS, CS and EIP
 * there.  What it has not told us is which of the 256 gates it came through, so
 * there must be 256 pieces of code that differ in nothing but a number.
 *
 * Some exceptions also push an error code.  A stub for any other vector pushes a
 * zero in its place, and from there on all frames look alike.  Which vectors do
 * is a trap that caught the prose of 2007: it spoke of six of them, then listed
 * seven (8, 10 to 14 and 17), and time has added 21, 29 and 30.  Get one wrong
 * and every register after it is read from its neighbour's place.
 *
 * The vector must arrive zero-extended.  PUSH with an 8-bit immediate extends
 * the sign, so 128 would come out as 0xFFFFFF80; from 128 on the assembler takes
 * the 32-bit form by itself, as the number does not fit the short one.
 *
 * Jumps are relative: the text may be copied anywhere.  Only the table of the
 * stubs' addresses knows where it was linked (at zero), so the loader adds the
 * address at which the text really lies.
 *
 * Whoever includes this file says where each kind of vector goes:
 *   EXIT_TRAP       exceptions, vector 128
 *   EXIT_HYPERCALL  vector 31
 *   EXIT_NMI        vector 2
 *   EXIT_INTERRUPT  all other vectors from 32 on
 * and defines has_error_code, a macro that sets `code` to 1 for those that push one.
 */

	.altmacro

	.macro STUB vector, exit
	has_error_code \vector
	.pushsection .data
	.long	1f
	.popsection
1:
	.if !code
	pushl	$0
	.endif
	pushl	$\vector
	jmp	\exit
	.balign	4, 0xCC
	.endm

	/* [V20] Who goes where.  128 is usually a gate of the Guest's own, taken
	 * from ring 3 to ring 1 with nobody else involved; when it comes here
	 * instead it is a trap like any other, and not an interrupt although its
	 * number would suit one. */
	.macro ROUTE vector
	.if \vector == 2
	STUB	\vector, EXIT_NMI
	.elseif \vector == HYPERCALL_VECTOR
	STUB	\vector, EXIT_HYPERCALL
	.elseif (\vector < 32) || (\vector == SYSCALL_VECTOR)
	STUB	\vector, EXIT_TRAP
	.else
	STUB	\vector, EXIT_INTERRUPT
	.endif
	.endm

	.pushsection .data
	.balign	4
	.globl	default_idt_entries
default_idt_entries:
	.popsection

	/* [V30] One macro, 256 times. */
	.globl	first_stub
first_stub:
	.set	next_vector, 0
	.rept	256
	ROUTE	%next_vector
	.set	next_vector, next_vector + 1
	.endr
