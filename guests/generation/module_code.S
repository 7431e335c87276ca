/*
 * [G57] What a module would be: a function that is copied somewhere and runs there, with a
 * hypercall in it.  module_call is the address of that, so that it can be
 * put where two pages meet.  It lies among data, which nobody executes: in a page of code
 * a VMCALL may have been replaced already.  uint32_t module(uint32_t number, uint32_t argument).
 */
#include "asm_offsets.h"
#include "generation.h"
#include "hypercall.h"

	.data
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
