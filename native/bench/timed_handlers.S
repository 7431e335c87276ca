/*
 * [B100] The shortest handler there is, so that a trap is timed and not what is done about it.
 */
	.text
	.globl	return_at_once
return_at_once:
	iret

	.section .note.GNU-stack, "", @progbits
