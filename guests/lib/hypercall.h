/* The instruction of a hypercall, and the register of its first argument; for the assembler. */
#ifndef HYPERCALL_H
#define HYPERCALL_H

#if BY_VMCALL
#define HYPERCALL .byte 0x0F, 0x01, 0xC1
#else
#define HYPERCALL int $HYPERCALL_VECTOR
#endif

#if OLD_ARGUMENTS
#define ARGUMENT_1 % edx
#else
#define ARGUMENT_1 % ebx
#endif

#endif
