/*
 * [M10] The monitor: a thousand small machines, one after the other.
 *
 * A conformance case is a machine state, a few bytes of code, and what must become
 * of both.  Starting an emulator or a VM for each would cost a hundred times what
 * the case does, so this program stays in memory below the arena, builds one case
 * after the other there, goes into it, and is called back by whatever trap ends it.
 * It believes nothing the case left behind: paging, tables, segments and debug
 * registers are its own again before it looks at anything.
 *
 * A case may end in a triple fault.  Then the engine resets the CPU, memory stays,
 * and everything begins at monitor_start again, which finds in the header that a
 * case was under way, notes its end, and goes on with the next.  The same happens
 * when a runner ends a hang.
 *
 * All engines play the same bytes: flat memory, ring 0, and no BIOS are enough.
 * EBP is the current case wherever a case is current.
 */

#include "conform_offsets.h"

/* Intel SDM vol. 3, "Control Registers". */
#define CR0_PLAIN 0x31 /* NE ET PE: no paging, no WP, no TS */
#define CR4_OSFXSR 0x200
#define ALL_PAGES_LOW 0xFFFFFFFF
#define ALL_PAGES_HIGH ((1 << (CONFORM_ARENA_PAGES - 32)) - 1)
#define TO_SHADOW (CONFORM_SHADOW - CONFORM_ARENA)
#define FLAT_CODE 0x00CF9B000000FFFF
#define FLAT_DATA 0x00CF93000000FFFF
#define BUSY_BYTE (CONFORM_TSS + 5)
/* The text is linked where it runs, so the pieces of an address are known here. */
#define ADDRESS(label) (CONFORM_TEXT + (label) - monitor_start)
#define LOW(label) (ADDRESS(label) & 0xFFFF)
#define KEEP(name) mov %name, %eax; mov %eax, %ss:S_##name
#define KEEP_SELECTOR(name) mov %name, %eax; movzwl %ax, %eax; mov %eax, %ss:S_##name
#define HIGH(label) (ADDRESS(label) >> 16)

	.text
	/* [M20] Power on, or a reset in the middle of a case.  Whoever started us has
	 * left flat segments, and nothing else is sure. */
	.globl	monitor_start
monitor_start:
	cli
	cld
	lgdt	own_gdt_pointer
	ljmp	$CONFORM_CS, $1f
1:	mov	$CONFORM_DS, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$CONFORM_STACK_END, %esp
	call	own_cpu
	call	current_case
	mov	H_state, %ecx
	mov	$CONFORM_BAD_SETUP, %eax
	cmp	$CONFORM_SETUP, %ecx
	je	finish_case
	cmp	$CONFORM_RUNNING, %ecx
	jne	next_case
	mov	H_reason, %eax
	test	%eax, %eax
	jnz	finish_case
	mov	$CONFORM_SHUTDOWN, %eax
	jmp	finish_case

	/* [M30] The next case, if there is one.  The arena first becomes the template
	 * again, but only where it is not: most cases touch three pages of forty. */
	.globl	next_case
next_case:
	mov	H_current, %eax
	cmp	H_count, %eax
	jae	batch_done
	call	current_case
	movl	$CONFORM_SETUP, H_state
	movl	$0, H_reason
	call	restore_arena
	call	apply_patches
	call	write_msrs
	call	copy_start
	mov	C_cr2(%ebp), %eax
	mov	%eax, %cr2
	call	load_debug
	jmp	load_tables

	/* [M40] Nothing left.  One of the next two ends the engine or stops it; a
	 * runner that has more to do gives us a new batch and comes back. */
	.globl	batch_done
batch_done:
	movl	$CONFORM_DONE, H_state
1:	out	%al, $CONFORM_PORT_END
	xchg	%bx, %bx /* Bochs' debugger stops here */
	cmpl	$CONFORM_DONE, H_state
	je	1b
	jmp	next_case

	/* [M50] EBP := the current case. */
	.globl	current_case
current_case:
	mov	H_current, %ebp
	imul	$CASE_BYTES, %ebp, %ebp
	add	H_cases, %ebp
	ret

	/* [M60] Arena and shadow become the template again, page by page where they
	 * are stale; another template makes all pages stale. */
	.globl	restore_arena
restore_arena:
	mov	C_template(%ebp), %edx
	cmp	H_loaded, %edx
	je	1f
	mov	%edx, H_loaded
	movl	$ALL_PAGES_LOW, H_stale
	movl	$ALL_PAGES_HIGH, H_stale + 4
1:	xor	%ebx, %ebx
2:	bt	%ebx, H_stale
	jnc	3f
	mov	%ebx, %eax
	shl	$12, %eax
	lea	CONFORM_ARENA(%eax), %edi
	lea	(%edx, %eax), %esi
	mov	$CONFORM_PAGE / 4, %ecx
	rep	movsl
	lea	CONFORM_SHADOW(%eax), %edi
	lea	(%edx, %eax), %esi
	mov	$CONFORM_PAGE / 4, %ecx
	rep	movsl
3:	inc	%ebx
	cmp	$CONFORM_ARENA_PAGES, %ebx
	jb	2b
	xor	%eax, %eax
	mov	%eax, H_stale
	mov	%eax, H_stale + 4
	ret

	/* [M70] What this case wants to be different, in the arena and in the shadow. */
	.globl	apply_patches
apply_patches:
	mov	C_patches(%ebp), %ebx
	mov	C_patch_count(%ebp), %edx
1:	sub	$1, %edx
	jc	3f
	mov	P_address(%ebx), %edi
	mov	P_size(%ebx), %eax
	call	mark_stale
	mov	P_data(%ebx), %esi
	mov	P_size(%ebx), %ecx
	rep	movsb
	mov	P_address(%ebx), %edi
	add	$TO_SHADOW, %edi
	mov	P_data(%ebx), %esi
	mov	P_size(%ebx), %ecx
	rep	movsb
	add	$PATCH_BYTES, %ebx
	jmp	1b
3:	ret

	/* [M80] The pages of EAX bytes at EDI differ from the template now. */
	.globl	mark_stale
mark_stale:
	lea	-1 - CONFORM_ARENA(%edi, %eax), %ecx
	shr	$12, %ecx
	lea	-CONFORM_ARENA(%edi), %eax
	shr	$12, %eax
1:	bts	%eax, H_stale
	inc	%eax
	cmp	%ecx, %eax
	jbe	1b
	ret

	/* [M90] Model-specific registers, the old values kept.  The count tells how
	 * many were changed if one of them is refused. */
	.globl	write_msrs
write_msrs:
	movl	$0, H_msrs_set
	mov	C_msrs(%ebp), %ebx
1:	mov	H_msrs_set, %eax
	cmp	C_msr_count(%ebp), %eax
	jae	2f
	mov	M_number(%ebx), %ecx
	rdmsr
	mov	%eax, M_old_low(%ebx)
	mov	%edx, M_old_high(%ebx)
	mov	M_low(%ebx), %eax
	mov	M_high(%ebx), %edx
	wrmsr
	incl	H_msrs_set
	add	$MSR_BYTES, %ebx
	jmp	1b
2:	ret

	/* [M100] The last steps into a case are made under its own page tables, where
	 * this text does not exist: what they need is copied to the save page. */
	.globl	copy_start
copy_start:
	mov	%ebp, %esi
	mov	$LAUNCH_CASE, %edi
	mov	$CASE_BYTES / 4, %ecx
	rep	movsl
	lea	LAUNCH_FROM(%ebp), %esi
	mov	$LAUNCH_STACK, %edi
	mov	$LAUNCH_WORDS, %ecx
	rep	movsl
	mov	$LAUNCH_INNER, %edi
	mov	C_esp(%ebp), %eax
	stosl
	mov	C_ss(%ebp), %eax
	stosl
	mov	C_eip(%ebp), %eax
	stosl
	mov	C_cs(%ebp), %eax
	stosl
	mov	C_flags(%ebp), %eax
	mov	%eax, S_flags
	ret

	/* [M110] All debug registers but DR7, which comes last of all. */
	.globl	load_debug
load_debug:
	mov	C_dr(%ebp), %eax
	mov	%eax, %dr0
	mov	C_dr + 4(%ebp), %eax
	mov	%eax, %dr1
	mov	C_dr + 8(%ebp), %eax
	mov	%eax, %dr2
	mov	C_dr + 12(%ebp), %eax
	mov	%eax, %dr3
	mov	C_dr6(%ebp), %eax
	mov	%eax, %dr6
	ret

	/* [M120] The case's GDT, LDT and TSS, while linear is still physical.  LTR
	 * writes the busy flag; that is our doing and not the case's, so the shadow
	 * gets it too. */
	.globl	load_tables
load_tables:
	lgdt	C_gdt(%ebp)
	lldt	C_ldtr(%ebp)
	movzwl	C_tr(%ebp), %edx
	test	%edx, %edx
	jz	1f
	ltr	%dx
	and	$~7, %edx
	add	C_gdt + 2(%ebp), %edx
	lea	-CONFORM_ARENA(%edx), %eax
	cmp	$CONFORM_ARENA_PAGES * CONFORM_PAGE - 8, %eax
	ja	1f
	mov	4(%edx), %ecx
	mov	%ecx, 4 + TO_SHADOW(%edx)
	mov	%edx, %edi
	mov	$8, %eax
	call	mark_stale
1:	movl	$CONFORM_RUNNING, H_state
	jmp	launch

	/* [M130] The collector left the case for us: its report becomes the result. */
	.globl	monitor_resume
monitor_resume:
	mov	$CONFORM_DS, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$CONFORM_STACK_END, %esp
	cld
	call	current_case
	mov	$CONFORM_SAVE, %esi
	mov	C_result(%ebp), %edi
	add	$R_saved, %edi
	mov	$SAVED_BYTES / 4, %ecx
	rep	movsl
	call	rest_of_stack
	mov	$CONFORM_TRAP, %eax
	jmp	finish_case

	/* [M135] A frame may lie across two pages, of which the collector dared to read
	 * only the first.  In the arena, where linear is physical, the rest is read now. */
	.globl	rest_of_stack
rest_of_stack:
	cmpl	$CONFORM_STACK_WORDS, S_stack_words
	je	1f
	mov	S_esp, %esi
	lea	-CONFORM_ARENA(%esi), %eax
	cmp	$CONFORM_ARENA_PAGES * CONFORM_PAGE - 4 * CONFORM_STACK_WORDS, %eax
	ja	1f
	mov	C_result(%ebp), %edi
	movl	$CONFORM_STACK_WORDS, (R_saved + S_stack_words - CONFORM_SAVE)(%edi)
	add	$R_saved + S_stack - CONFORM_SAVE, %edi
	mov	$CONFORM_STACK_WORDS, %ecx
	rep	movsl
1:	ret

	/* [M140] However the case ended, EAX says how.  The CPU becomes ours, the arena
	 * is held against the shadow, and what the case wanted watched is kept. */
	.globl	finish_case
finish_case:
	mov	C_result(%ebp), %edi
	mov	%eax, R_outcome(%edi)
	call	own_cpu
	call	restore_msrs
	call	compare_pages
	call	copy_watches
	movl	$CONFORM_IDLE, H_state
	incl	H_current
	jmp	next_case

	/* [M150] Nothing of the case's is left in the CPU.  Global pages go with CR4. */
	.globl	own_cpu
own_cpu:
	lgdt	own_gdt_pointer
	lidt	own_idt_pointer
	mov	$CR0_PLAIN, %eax
	mov	%eax, %cr0
	xor	%eax, %eax
	mov	%eax, %cr4
	mov	%eax, %dr7
	lldt	%ax
	mov	%eax, %fs
	mov	%eax, %gs
	andb	$0xFD, own_gdt + BUSY_BYTE
	mov	$CONFORM_TSS, %eax
	ltr	%ax
	fninit
	ret

	/* [M160] As many as were changed. */
	.globl	restore_msrs
restore_msrs:
	mov	C_msrs(%ebp), %ebx
1:	subl	$1, H_msrs_set
	jc	2f
	mov	M_number(%ebx), %ecx
	mov	M_old_low(%ebx), %eax
	mov	M_old_high(%ebx), %edx
	wrmsr
	add	$MSR_BYTES, %ebx
	jmp	1b
2:	movl	$0, H_msrs_set
	ret

	/* [M170] Which pages of the arena are not as they were.  This is most of what a
	 * case costs, above all where instructions are interpreted one by one: so sixteen
	 * bytes an instruction, and one look at the sum of a whole page. */
	.globl	compare_pages
compare_pages:
	mov	C_result(%ebp), %edi
	movl	$0, R_changed(%edi)
	movl	$0, R_changed + 4(%edi)
	mov	$CR4_OSFXSR, %eax
	mov	%eax, %cr4
	mov	$CONFORM_ARENA, %esi
	xor	%ebx, %ebx
	pxor	%xmm0, %xmm0
1:	mov	$CONFORM_PAGE / 128, %ecx
	pxor	%xmm1, %xmm1
2:	.irp	place, 0, 16, 32, 48, 64, 80, 96, 112
	movdqa	\place(%esi), %xmm2
	pxor	TO_SHADOW + \place(%esi), %xmm2
	por	%xmm2, %xmm1
	.endr
	add	$128, %esi
	dec	%ecx
	jnz	2b
	pcmpeqb	%xmm0, %xmm1
	pmovmskb %xmm1, %eax
	cmp	$0xFFFF, %eax
	je	3f
	bts	%ebx, R_changed(%edi)
	bts	%ebx, H_stale
3:	inc	%ebx
	cmp	$CONFORM_ARENA_PAGES, %ebx
	jb	1b
	pxor	%xmm1, %xmm1
	pxor	%xmm2, %xmm2
	xor	%eax, %eax
	mov	%eax, %cr4
	ret

	/* [M180] The ranges somebody wants to see, behind the result. */
	.globl	copy_watches
copy_watches:
	mov	C_watches(%ebp), %ebx
	mov	C_watch_count(%ebp), %edx
	mov	C_result(%ebp), %edi
	add	$RESULT_BYTES, %edi
1:	sub	$1, %edx
	jc	2f
	mov	W_address(%ebx), %esi
	mov	W_size(%ebx), %ecx
	rep	movsb
	add	$WATCH_BYTES, %ebx
	jmp	1b
2:	ret

	/* [M190] An exception of our own: an MSR that does not exist, a selector that
	 * LTR refuses.  The case asked for a machine that cannot be had; say why. */
	.globl	setup_fault
setup_fault:
	mov	$CONFORM_DS, %eax
	mov	%eax, %ds
	mov	%eax, %es
	cld
	call	current_case
	mov	C_result(%ebp), %edi
	pop	R_vector(%edi)
	pop	R_error(%edi)
	pop	R_eip(%edi)
	mov	$CONFORM_STACK_END, %esp
	mov	$CONFORM_BAD_SETUP, %eax
	jmp	finish_case

	/* [M200] Its stubs, sixteen bytes each; those without an error code push one. */
	.globl	setup_stubs
	.balign	16
setup_stubs:
	.set	vector, 0
	.rept	32
	.balign	16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
	push	$0
	.endif
	push	$vector
	jmp	setup_fault
	.set	vector, vector + 1
	.endr

	.balign	16
own_gdt:
	.fill	12, 8, 0
	.quad	FLAT_CODE, FLAT_DATA
	.fill	2, 8, 0
	/* An empty TSS: nothing here ever comes from an outer ring.  The address has
	 * fewer than 24 bits. */
	.word	103, LOW(own_tss), 0x8900 + HIGH(own_tss), 0
own_gdt_end:
	.word	0
own_gdt_pointer:
	.word	own_gdt_end - own_gdt - 1
	.long	own_gdt
	.word	0
own_idt_pointer:
	.word	own_idt_end - own_idt - 1
	.long	own_idt
	.balign	16
own_idt:
	.set	vector, 0
	.rept	32
	.word	LOW(setup_stubs + 16 * vector), CONFORM_CS, 0x8E00, HIGH(setup_stubs)
	.set	vector, vector + 1
	.endr
own_idt_end:
own_tss:
	.fill	26, 4, 0

	/* [M210] From here on the text lies in the arena, where every case's page tables
	 * show it at the same address.  The collector: a stub has pushed its vector, and
	 * that is all that is known.  SS is trusted to be flat (the case's TSS or ours put
	 * it there), DS to be nothing at all, and the stack to have no room to spare. */
	.section .collect, "ax"
	.globl	collect
collect:
	mov	%eax, %ss:S_eax
	pushf
	pop	%ss:S_eflags
	mov	%dr7, %eax
	mov	%eax, %ss:S_dr7
	xor	%eax, %eax
	mov	%eax, %dr7
	mov	%ecx, %ss:S_ecx
	mov	%edx, %ss:S_edx
	mov	%ebx, %ss:S_ebx
	mov	%esp, %ss:S_esp
	mov	%ebp, %ss:S_ebp
	mov	%esi, %ss:S_esi
	mov	%edi, %ss:S_edi
	KEEP_SELECTOR(es)
	KEEP_SELECTOR(cs)
	KEEP_SELECTOR(ss)
	KEEP_SELECTOR(ds)
	KEEP_SELECTOR(fs)
	KEEP_SELECTOR(gs)
	KEEP(cr0)
	KEEP(cr2)
	KEEP(cr3)
	KEEP(cr4)
	KEEP(dr6)
	.irp	number, 0, 1, 2, 3
	mov	%dr\number, %eax
	mov	%eax, %ss:(S_dr + 4 * \number)
	.endr
	sgdt	%ss:S_gdt
	sidt	%ss:S_idt
	str	%eax
	movzwl	%ax, %eax
	mov	%eax, %ss:S_tr
	sldt	%eax
	movzwl	%ax, %eax
	mov	%eax, %ss:S_ldtr

	/* [M220] Of the stack as much as the report has room for and the page has left. */
	mov	%esp, %ecx
	neg	%ecx
	and	$CONFORM_PAGE - 1, %ecx
	shr	$2, %ecx
	cmp	$CONFORM_STACK_WORDS, %ecx
	jbe	1f
	mov	$CONFORM_STACK_WORDS, %ecx
1:	mov	%ecx, %ss:S_stack_words
	mov	%esp, %esi
	mov	$S_stack, %edi
2:	sub	$1, %ecx
	jc	3f
	mov	%ss:(%esi), %eax
	mov	%eax, %ss:(%edi)
	add	$4, %esi
	add	$4, %edi
	jmp	2b

	/* [M230] A runner that looks into hidden registers gets them here, as the case
	 * left them.  Then out: this page is linear = physical, so paging may end. */
3:	movl	$CONFORM_PHASE_END, %ss:S_phase
	testl	$CONFORM_EXTERNAL, %ss:S_flags
	jz	4f
	out	%al, $CONFORM_PORT_EXTERNAL
4:	mov	%cr0, %eax
	and	$0x7FFFFFFF, %eax
	mov	%eax, %cr0
	lgdt	%ss:own_gdt_pointer
	ljmp	$CONFORM_CS, $monitor_resume

	/* [M240] The way in.  Tables are the case's already, paging follows; the IDT
	 * after it, so that nothing in between can reach the case's.  What a segment
	 * register cannot be loaded with is a trap of the case, at an address in here. */
	.globl	launch
launch:
	mov	L_cr4, %eax
	mov	%eax, %cr4
	mov	L_cr3, %eax
	mov	%eax, %cr3
	mov	L_cr0, %eax
	mov	%eax, %cr0
	jmp	1f
1:	lidt	L_idt
	movl	$CONFORM_PHASE_START, S_phase
	testl	$CONFORM_EXTERNAL, S_flags
	jz	2f
	out	%al, $CONFORM_PORT_EXTERNAL
2:	mov	$LAUNCH_STACK, %esp
	mov	L_dr7, %eax
	mov	%eax, %dr7
	pop	%gs
	pop	%fs
	pop	%es
	pop	%ds
	popal
	testb	$3, %ss:4(%esp)
	jz	3f
	iret
	/* [M250] To the same ring without a word on the stack of the case, which may be
	 * filled with a pattern that is to be found again. */
3:	add	$8, %esp
	popf
	lss	%cs:LAUNCH_INNER, %esp
	ljmp	*%cs:(LAUNCH_INNER + 8)
	.globl	launch_end
launch_end:
