/*
 * [G57] What a module would be: a function that is copied somewhere and runs there, with a
 * hypercall in it.  module_at is the address of its instruction, so that it can be
 * put where two pages meet.  uint32_t module(uint32_t number, uint32_t argument).
 */
#include "asm_offsets.h"
#include "generation.h"
#include "hypercall.h"

	.text
	.globl	module_begin, module_call, module_end
module_begin:
	pushl	%ebx
	movl	8(%esp), %eax
	movl	12(%esp), ARGUMENT_1
module_call:
	HYPERCALL
	popl	%ebx
	ret
module_end:

	.section .note.GNU-stack, "", @progbits
