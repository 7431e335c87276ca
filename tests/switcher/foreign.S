/*
 * A Switcher of somebody else's, for the loader's tests.
 *
 * Written from the ABI tables, not from ours: it has its own offsets, typed here
 * from the two columns of the register frame (FRAME=2623 or 2624) and of the state
 * page (DESC=8 or 6), other registers, another order of exits and stubs, text in
 * front of it and behind it, and references that only a loader can make good: an
 * absolute jump, and relative ones to weak names.
 */
	.set	LDS, 0x58
	.set	TSEL, 0x80
	.set	FRAME_AT, 4096 - 72
	.set	TRAPNUM_AT, FRAME_AT + 44
	.set	HOST_CR3, 4096
	.set	HOST_IDT, 4096 + 4
	.set	HOST_GDT, HOST_IDT + DESC
	.set	HOST_SP, HOST_GDT + DESC
	.set	GUEST_IDT, HOST_SP + 4
	.set	GUEST_GDT, GUEST_IDT + DESC
	.set	GDT_TABLE, GUEST_GDT + DESC + 104 + 256 * 8

	.macro EACH_REGISTER action
#if FRAME == 2623
	.irp	r, ebx, ecx, edx, esi, edi, ebp, gs, eax, fs, ds, es
#else
	.irp	r, eax, ebx, ecx, edx, esi, edi, ebp, gs, fs, ds, es
#endif
	\action	%\r
	.endr
	.endm

	.macro EACH_BACKWARDS action
#if FRAME == 2623
	.irp	r, es, ds, fs, eax, gs, ebp, edi, esi, edx, ecx, ebx
#else
	.irp	r, es, ds, fs, gs, ebp, edi, esi, edx, ecx, ebx, eax
#endif
	\action	%\r
	.endr
	.endm

	.text
	/* A neighbour, so that the Switcher does not start where its section does. */
	.globl	neighbour
neighbour:
	.rept	37
	hlt
	.endr

	.globl	start_switcher_text
start_switcher_text:
	/* The stubs lie first here, the table's entries still increase. */
	.altmacro
	.macro STUB n, exit
	.pushsection .data
	.long	1f
	.popsection
1:
	.if	(\n == 8) || ((\n >= 10) && (\n <= 14)) || (\n == 17)
	.else
	push	$0
	.endif
	push	$\n
	jmp	\exit
	.endm

	.pushsection .data
	.long	0x12345678
	.globl	default_idt_entries
default_idt_entries:
	.popsection
	.set	n, 0
	.rept	256
	.if	n == 2
	STUB	%n, handle_nmi
	.elseif	(n < 32) || (n == 128)
	STUB	%n, return_to_host
	.else
	STUB	%n, deliver_to_host
	.endif
	.set	n, n + 1
	.endr
	.pushsection .data
	.globl	table_end
table_end:
	.long	0
	.popsection

	.weak	handle_nmi
handle_nmi:
	lea	8(%esp), %esp
	iret

	/* Home, with EDI for the pair. */
	.macro GO_HOME
	EACH_BACKWARDS push
	mov	$LDS, %ecx
	mov	%ecx, %ds
	mov	%esp, %edi
	and	$~4095, %edi
	mov	TRAPNUM_AT(%edi), %ebx
	mov	HOST_CR3(%edi), %ecx
	mov	%ecx, %cr3
	andb	$~2, (GDT_TABLE + TSEL + 5)(%edi)
	lgdt	HOST_GDT(%edi)
	lidt	HOST_IDT(%edi)
	mov	HOST_SP(%edi), %esp
	mov	$TSEL, %ecx
	ltr	%cx
	pop	%es
	pop	%ds
	pop	%gs
	pop	%fs
	pop	%ebp
	.endm

	.weak	deliver_to_host
deliver_to_host:
	GO_HOME
	mov	(HOST_IDT + 2)(%edi), %ecx
	lea	(%ecx, %ebx, 8), %ebx
	mov	4(%ebx), %ecx
	mov	(%ebx), %cx
	jmp	*%ecx

	.weak	return_to_host
return_to_host:
	GO_HOME
	iret

	/* Away, with ECX for the pair; EBX must wait for CR3. */
	.globl	switch_to_guest
switch_to_guest:
	push	%ebp
	push	%fs
	push	%gs
	push	%ds
	push	%es
	mov	%eax, %ecx
	mov	%esp, HOST_SP(%ecx)
	lea	FRAME_AT(%ecx), %edx
	mov	%edx, %esp
	lidt	GUEST_IDT(%ecx)
	lgdt	GUEST_GDT(%ecx)
	mov	$TSEL, %edx
	ltr	%dx
	mov	(HOST_GDT + 2)(%ecx), %edx
	andb	$~2, (TSEL + 5)(%edx)
	/* Only right if the loader knows where this page will lie. */
	mov	$leave_host, %edx
	jmp	*%edx
	ud2
leave_host:
	mov	%ebx, %cr3
	EACH_REGISTER pop
	add	$8, %esp
	iret
#ifdef EXTRA
	EXTRA
#endif

#ifndef NO_END
	.globl	end_switcher_text
end_switcher_text:
#endif
#ifdef BEHIND
	BEHIND
#endif
