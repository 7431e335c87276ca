/*
 * [P10] The probe Guests.
 *
 * A KVM's capabilities say what its authors meant it to do.  Whether a ring-1
 * Guest can live there only a ring-1 Guest can tell, so here are some: each asks
 * the CPU one question in a few instructions and reports by OUT what it saw.
 * They share one page of text, the stubs at its end, and the small world that
 * probe.h describes and kvmhost/doctor/world.py builds; nothing here knows what
 * the right answer is.
 *
 * At each entry: ring 0, flat segments LGUEST_CS and LGUEST_DS, interrupts off,
 * GDT and IDT loaded, ESP on the ring-0 stack.  Whether paging is on is up to
 * the probe.
 */

#include "probe_constants.h"

/* Intel SDM vol. 3, "Control Registers"; vol. 4, "Architectural MSRs". */
#define CR0_PG 0x80000000
#define IA32_APIC_BASE 0x1B
#define APIC_BASE_ENABLE_X2APIC 0xC00
#define X2APIC_EOI 0x80B
#define X2APIC_SIVR 0x80F
#define SIVR_ENABLE 0x100
#define EFLAGS_FIXED 0x002
#define EFLAGS_IF 0x200
#define DESCRIPTOR_TYPE_BYTE 5

	/* All talking is done through EAX: IN and OUT know no other register. */
	.macro SAY port
	out	%eax, $\port
	.endm

	.macro VALUE what:vararg
	mov	\what, %eax
	SAY	PROBE_PORT_VALUE
	.endm

	.macro DONE
	SAY	PROBE_PORT_DONE
	.endm

	/* Into ring 1 the only way there is: build the frame that a trap from there
	 * would have pushed, and return to it.  IRET leaves DS and ES null, since
	 * their DPL 0 is no business of ring 1. */
	.macro TO_RING1 target, eflags=EFLAGS_FIXED
	mov	$TSS_SELECTOR, %eax
	ltr	%ax
	push	$GUEST_DS
	push	$PROBE_RING1_TOP
	push	$\eflags
	push	$GUEST_CS
	push	$\target
	iret
	.endm

	.text
	.globl	start_probes
start_probes:

	/* [P20] PROBE-1.  The least a CPU can do: one value, then stop.  Without an
	 * interrupt controller in the kernel, HLT leaves the VM. */
	.globl	probe_halt
probe_halt:
	VALUE	$PROBE_REACHED
	hlt

	/* [P30] PROBE-2 with paging on since before the first instruction.  At
	 * PROBE_ALIAS linear and physical addresses differ, so what is read tells
	 * whether anything translates. */
	.globl	probe_translation
probe_translation:
	VALUE	PROBE_ALIAS
	DONE

	/* [P40] PROBE-2 again, and now the Guest itself turns paging on: EBX is the
	 * table's address, ECX what CR4 must be for its format. */
	.globl	probe_paging_on
probe_paging_on:
	mov	%ecx, %cr4
	mov	%ebx, %cr3
	mov	%cr0, %eax
	or	$CR0_PG, %eax
	mov	%eax, %cr0
	jmp	1f
1:	VALUE	PROBE_ALIAS
	DONE

	/* [P50] PROBE-3.  A return to where we are: no ring changes, no stack does.
	 * An emulator that never expected IRET in protected mode stops here. */
	.globl	probe_iret
probe_iret:
	pushf
	push	%cs
	push	$1f
	iret
1:	VALUE	$PROBE_REACHED
	DONE

	/* [P60] PROBE-4.  Out to ring 1, and home through a gate: the CPU takes the
	 * ring-0 stack from the TSS, and what it pushes there says where it was. */
	.globl	probe_ring1
probe_ring1:
	TO_RING1 ring1_calls
	.globl	ring1_calls
ring1_calls:
	int	$HYPERCALL_VECTOR
	.globl	ring1_called
ring1_called:

	/* [P70] PROBE-5.  LTR marks the descriptor in memory busy: type 9 becomes 11. */
	.globl	probe_busy
probe_busy:
	movzbl	PROBE_GDT + TSS_SELECTOR + DESCRIPTOR_TYPE_BYTE, %eax
	SAY	PROBE_PORT_VALUE
	mov	$TSS_SELECTOR, %eax
	ltr	%ax
	movzbl	PROBE_GDT + TSS_SELECTOR + DESCRIPTOR_TYPE_BYTE, %eax
	SAY	PROBE_PORT_VALUE
	DONE

	/* [P80] PROBE-6.  FS ends after PROBE_SHORT_BYTES; the read is one past that.
	 * The value is only ever said on a CPU that does not look at limits. */
	.globl	probe_limit
probe_limit:
	mov	$PROBE_SHORT_SELECTOR, %eax
	mov	%eax, %fs
	.globl	limit_read
limit_read:
	mov	%fs:PROBE_SHORT_BYTES, %eax
	VALUE	$PROBE_REACHED
	DONE

	/* [P90] PROBE-7.  A divide error, which no hypervisor has a reason to
	 * intercept; the interesting part is RF in the EFLAGS it pushes. */
	.globl	probe_fault
probe_fault:
	xor	%edx, %edx
	xor	%ecx, %ecx
	.globl	fault_divide
fault_divide:
	div	%ecx

	/* [P100] PROBE-8.  A global entry survives a CR3 load even after the table
	 * in memory has changed; INVLPG ends that.  Three reads: before, after the
	 * load, after INVLPG. */
	.globl	probe_global
probe_global:
	VALUE	PROBE_ALIAS
	mov	PROBE_PAE_PT + (PROBE_ALIAS >> 9), %eax
	xor	$(PROBE_FRAME_ONE ^ PROBE_FRAME_TWO), %eax
	mov	%eax, PROBE_PAE_PT + (PROBE_ALIAS >> 9)
	mov	%cr3, %eax
	mov	%eax, %cr3
	VALUE	PROBE_ALIAS
	invlpg	PROBE_ALIAS
	VALUE	PROBE_ALIAS
	DONE

	/* [P110] PROBE-9.  When the OUT has been answered an NMI is pending, and
	 * nothing here can mask it. */
	.globl	probe_nmi
probe_nmi:
	SAY	PROBE_PORT_ASK
1:	pause
	jmp	1b

	/* [P120] PROBE-11.  How many bytes does a 32-bit PUSH of a segment register
	 * write?  The slot is filled with ones first. */
	.globl	probe_push
probe_push:
	movl	$-1, -4(%esp)
	push	%ds
	pop	%eax
	SAY	PROBE_PORT_VALUE
	DONE

	/* [P130] PROBE-14.  An IDT of no entries: INT3 becomes #GP, that #DF, and
	 * that the end.  The value said first tells this end from one that came
	 * before the Guest ran at all; ESI is what to look for in the wreck. */
	.globl	probe_shutdown
probe_shutdown:
	VALUE	$PROBE_REACHED
	mov	$PROBE_REACHED, %esi
	push	$0
	push	$0
	lidt	(%esp)
	int3

	/* [P140] CPUID, first at ring 0, where it must work, then at ring 1, where
	 * it must trap if each Guest is to get its own answers.  The whole way of a
	 * Guest is in here (translation, LTR, out to ring 1, home by a fault), so
	 * this is the one probe that decides on every command. */
	.globl	probe_cpuid
probe_cpuid:
	VALUE	PROBE_ALIAS
	xor	%eax, %eax
	cpuid
	mov	%ebx, %eax
	SAY	PROBE_PORT_VALUE
	TO_RING1 cpuid_at_ring1
	.globl	cpuid_at_ring1
cpuid_at_ring1:
	cpuid
	int	$HYPERCALL_VECTOR

	/* [P150] The kick: the local APIC into x2APIC mode and on, then ask for the
	 * message, then out to ring 1 with interrupts on.  It waits there for ever. */
	.globl	probe_kick
probe_kick:
	mov	$IA32_APIC_BASE, %ecx
	rdmsr
	or	$APIC_BASE_ENABLE_X2APIC, %eax
	wrmsr
	mov	$X2APIC_SIVR, %ecx
	mov	$(SIVR_ENABLE | SPURIOUS_VECTOR), %eax
	xor	%edx, %edx
	wrmsr
	SAY	PROBE_PORT_ASK
	TO_RING1 1f, EFLAGS_IF + EFLAGS_FIXED
1:	pause
	jmp	1b

	/* [P160] Ring 1 counts as a supervisor, so it may read a supervisor's page;
	 * only CR0.WP keeps it from writing one that is read-only.  The Switcher's
	 * safety hangs on that bit. */
	.globl	probe_write_protect
probe_write_protect:
	TO_RING1 1f
1:	mov	$GUEST_DS, %eax
	mov	%eax, %ds
	cmpl	$PROBE_VALUE_TWO, PROBE_READ_ONLY
	jne	2f
	.globl	write_protected
write_protected:
	movl	$0, PROBE_READ_ONLY
2:	int	$HYPERCALL_VECTOR

	/* [P170] XD: data must not run, at ring 1 no more than at ring 3.  Should it
	 * run after all, it finds an INT there. */
	.globl	probe_no_execute
probe_no_execute:
	TO_RING1 PROBE_NO_EXECUTE

	/* [P180] Where every trap of a probe Guest ends: the vector, the error code
	 * (zero where the CPU has none), what the CPU pushed, CR2.  From the same
	 * ring the CPU pushes neither SS nor ESP; then those two words are whatever
	 * lay on the stack. */
tell_trap:
	.rept	7
	pop	%eax
	SAY	PROBE_PORT_FAULT
	.endr
	mov	%cr2, %eax
	SAY	PROBE_PORT_FAULT
	DONE

	/* [P190] The local APIC holds further interrupts back until it hears EOI. */
	.globl	probe_kicked
probe_kicked:
	mov	$X2APIC_EOI, %ecx
	xor	%eax, %eax
	xor	%edx, %edx
	wrmsr
	push	$0
	push	$KICK_VECTOR
	jmp	tell_trap

	/* [P200] One stub a vector, all of one size so that the IDT can be counted
	 * out.  The CPU pushes an error code for 8, 10 to 14, 17, 21, 29 and 30
	 * (Intel SDM vol. 3, "Error Code"; AMD APM vol. 2, "Error Codes"). */
	.set	has_error_code, 0x60227D00
	.balign	PROBE_STUB_BYTES
	.globl	probe_stubs
probe_stubs:
	.set	vector, 0
	.rept	PROBE_STUBS
	.if	!(has_error_code >> vector & 1)
	push	$0
	.endif
	push	$vector
	jmp	tell_trap
	.balign	PROBE_STUB_BYTES
	.set	vector, vector + 1
	.endr
	.globl	end_probes
end_probes:
