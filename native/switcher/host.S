/*
 * [H10] The Host at ring 0.
 *
 * Everything that decides lives outside the VM.  In here is only what must be at
 * ring 0: the way into the Switcher, a few handlers, and the door out.  The door
 * is an OUT instruction, because HLT does not leave a VM whose interrupt
 * controllers are in the kernel.  KVM completes the OUT when the vCPU is run
 * again, so one KVM_RUN is one world switch.
 *
 * EBP holds this vCPU's mailbox all the time: the Switcher brings it back.
 * Interrupts are off in here and on in the Guest, so whatever is pending comes
 * through a stub.
 */

#include "asm_offsets.h"

/* Intel SDM vol. 4, "Architectural MSRs"; vol. 3, "Extended xAPIC (x2APIC)". */
#define IA32_APIC_BASE 0x1B
#define APIC_BASE_ENABLE_X2APIC 0xC00
#define IA32_SYSENTER_CS 0x174
#define X2APIC_TPR 0x808
#define X2APIC_EOI 0x80B
#define X2APIC_SIVR 0x80F
#define SIVR_ENABLE 0x100
#define X2APIC_LVT_LINT0 0x835
#define LVT_MASKED 0x10000
#define PIC1_DATA 0x21
#define PIC2_DATA 0xA1

	.macro WRITE_MSR number, value
	mov	$\number, %ecx
	mov	$\value, %eax
	xor	%edx, %edx
	wrmsr
	.endm

	.text
	.globl	start_host_text
start_host_text:

	/* [H20] First instructions of a vCPU.  Registers and tables were set from
	 * outside, but not TR: what KVM takes for it differs between vendors, and
	 * LTR does not.  LDTR and SYSENTER are two doors into ring 0 that no gate
	 * guards; they are shut for good. */
	.globl	host_start
host_start:
	mov	$TSS_SELECTOR, %eax
	ltr	%ax
	xor	%eax, %eax
	lldt	%ax
	WRITE_MSR IA32_SYSENTER_CS, 0

	/* [H30] Interrupts: the old controllers masked, the local APIC in x2APIC
	 * mode and switched on.  A vCPU that is started again after a fault may have
	 * been on its way to a kick's handler; what is in service would block all
	 * further ones, so it is ended (and with nothing in service EOI does nothing). */
	mov	$0xFF, %al
	out	%al, $PIC1_DATA
	out	%al, $PIC2_DATA
	mov	$IA32_APIC_BASE, %ecx
	rdmsr
	or	$APIC_BASE_ENABLE_X2APIC, %eax
	wrmsr
	WRITE_MSR X2APIC_TPR, 0
	WRITE_MSR X2APIC_LVT_LINT0, LVT_MASKED
	WRITE_MSR X2APIC_SIVR, (SIVR_ENABLE + SPURIOUS_VECTOR)
	WRITE_MSR X2APIC_EOI, 0
	movl	$1, MB_initialised(%ebp)

	/* [H40] The loop.  Out; and when somebody runs this vCPU again, the mailbox
	 * says where to. */
	.globl	host_leave
host_leave:
	out	%al, $PORT_LEAVE
	cmpl	$0, MB_work(%ebp)
	jne	host_work
host_enter:
	mov	MB_pair(%ebp), %eax
	mov	MB_root(%ebp), %ebx
	pushf
	lcall	*MB_entry_offset(%ebp)
	/* [H50] Back.  If it was a page fault its address is still in CR2; save it
	 * before anything else can fault.  SS is now LGUEST_DS, as an IRET to the
	 * same ring does not reload it; it is as flat as our own. */
	.globl	host_return
host_return:
	mov	%cr2, %eax
	mov	%eax, MB_cr2(%ebp)
	jmp	host_leave

	/* [H60] What is not needed for every switch: another Guest's FPU, or CR0
	 * with TS changed.  FXSAVE and FXRSTOR would themselves trap with TS set, so
	 * it goes first and comes back with CR0.  FXRSTOR does not touch the last
	 * x87 instruction's address on some CPUs unless an exception is pending;
	 * FNINIT wipes it, or one Guest could read another's. */
	.globl	host_work
host_work:
	mov	MB_work(%ebp), %ecx
	clts
	test	$WORK_FPU_SAVE, %cl
	jz	1f
	mov	MB_fpu_save(%ebp), %eax
	fxsave	(%eax)
1:	test	$WORK_FPU_LOAD, %cl
	jz	2f
	mov	MB_fpu_load(%ebp), %eax
	fninit
	fxrstor	(%eax)
2:	mov	MB_cr0(%ebp), %eax
	mov	%eax, %cr0
	movl	$0, MB_work(%ebp)
	test	$WORK_STAY, %cl
	jz	host_enter
	jmp	host_leave

	/* [H70] A kick.  It reached us through the Switcher, so the IRET goes to
	 * host_return and the registers it spoils are nobody's.  The Guest's DF
	 * comes along; no handler may start with it set. */
	.globl	host_kick
host_kick:
	cld
	incl	MB_kicks(%ebp)
	WRITE_MSR X2APIC_EOI, 0
	iret

	/* [H80] Any other interrupt: nobody sends one, so it is counted and, or its
	 * priority would block the kicks, ended. */
	.globl	host_unexpected
host_unexpected:
	cld
	incl	MB_unexpected(%ebp)
	WRITE_MSR X2APIC_EOI, 0
	iret

	/* [H90] The APIC says that an interrupt went away.  No EOI for this one. */
	.globl	host_spurious
host_spurious:
	iret

	/* [H100] NMI.  It may come at any boundary of the Switcher where the Host's
	 * IDT is live, so with any stack, with TR and FS and GS of the Guest; only
	 * DS and the GDT can be trusted.  The GDT leads to the rest: every vCPU has
	 * its own and its mailbox lies behind it. */
	.macro MAILBOX_TO register
	sub	$8, %esp
	sgdt	(%esp)
	mov	2(%esp), \register
	add	$8, %esp
	add	$GDT_TO_MAILBOX, \register
	.endm

	.globl	host_nmi
host_nmi:
	push	%eax
	MAILBOX_TO %eax
	incl	MB_nmi_host(%eax)
	pop	%eax
	iret

	/* [H110] An exception at ring 0: a defect of ours, or one that a test has
	 * planted.  Tell everything and leave by the second door; what happens to
	 * this vCPU is decided outside.  On the stack: EAX, vector, code, EIP, CS,
	 * EFLAGS. */
	.globl	host_fault
host_fault:
	push	%eax
	push	%ecx
	MAILBOX_TO %eax
	mov	8(%esp), %ecx
	mov	%ecx, MB_fault_vector(%eax)
	mov	12(%esp), %ecx
	mov	%ecx, MB_fault_error(%eax)
	mov	16(%esp), %ecx
	mov	%ecx, MB_fault_eip(%eax)
	mov	20(%esp), %ecx
	mov	%ecx, MB_fault_cs(%eax)
	mov	24(%esp), %ecx
	mov	%ecx, MB_fault_eflags(%eax)
	lea	28(%esp), %ecx
	mov	%ecx, MB_fault_esp(%eax)
	mov	%cr2, %ecx
	mov	%ecx, MB_fault_cr2(%eax)
	pop	%ecx
	pop	%eax
1:	out	%al, $PORT_HOST_FAULT
	jmp	1b

	/* [H120] The Host's own 256 vectors.  Exceptions get a stub each, for the
	 * vector and the missing error code; the rest share a handler.  The table
	 * that the Host's IDT is built from lies in .data, outside the page. */
	.altmacro
	.macro HOST_VECTOR vector
	.set	code, 0
	.irp	n, 8, 10, 11, 12, 13, 14, 17, 21, 29, 30
	.if \vector == \n
	.set	code, 1
	.endif
	.endr
	.pushsection .data
	.if \vector == 2
	.long	host_nmi
	.elseif \vector < 32
	.long	1f
	.elseif \vector == KICK_VECTOR
	.long	host_kick
	.elseif \vector == SPURIOUS_VECTOR
	.long	host_spurious
	.else
	.long	host_unexpected
	.endif
	.popsection
	.if (\vector < 32) && (\vector != 2)
1:
	.if !code
	pushl	$0
	.endif
	pushl	$\vector
	jmp	host_fault
	.endif
	.endm

	.pushsection .data
	.balign	4
	.globl	default_idt_entries
default_idt_entries:
	.popsection

	.globl	host_stubs
host_stubs:
	.set	next_vector, 0
	.rept	256
	HOST_VECTOR %next_vector
	.set	next_vector, next_vector + 1
	.endr

	.globl	end_host_text
end_host_text:
