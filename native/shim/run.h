/* The hot run loop: declarations for C and, through cffi, for Python. */
#ifndef KVMHOST_SHIM_RUN_H
#define KVMHOST_SHIM_RUN_H

#include <stdint.h>

#include "machine.h"

/* What kvmhost_enter returns; a negative number is -errno of KVM_RUN. */
#define LEFT_TRAP 0 /* the Guest trapped; its frame is complete */
#define LEFT_ATTENTION 1 /* somebody wants the vCPU's ear */
#define LEFT_HOST_FAULT 2 /* PORT_HOST_FAULT, the mailbox tells */
#define LEFT_SWITCHER_FAULT 3 /* PORT_SWITCHER_FAULT, the registers tell */
#define LEFT_EXIT 4 /* another KVM exit, the run page tells */
#define LEFT_BROKEN 5 /* no way out of the VM within KVMHOST_PATIENCE_MS */

/* How long a vCPU that was told to leave may take, in milliseconds. */
#define KVMHOST_PATIENCE_MS 1000

/* One vCPU as the loop sees it.  Python fills in the first part and owns it all. */
struct kvmhost_cpu {
	int32_t fd; /* the vCPU's file */
	int32_t kick_fd; /* an eventfd that KVM turns into KICK_VECTOR */
	void *run; /* struct kvm_run * */
	struct kvmhost_mailbox *mailbox;
	volatile uint32_t *trapnum; /* in the frame of the Guest on this vCPU */
	volatile uint32_t *eax; /* in the same frame */
	struct kvmhost_guest *guest; /* that Guest, or NULL */
	struct kvmhost_tss *tss; /* in this vCPU's state page */
	uint32_t roots; /* VM-physical address of the Guest's shadow roots */
	uint32_t cr0; /* the Host's, but for TS */

	uint64_t runs; /* KVM_RUN calls */
	uint64_t switches; /* world switches: entries that came back by a stub */
	uint64_t signals; /* KVM_RUN ended by a signal */
	uint64_t stale; /* interrupts whose reason had been seen already */
	uint64_t kicks; /* kicks sent */
	uint64_t posts; /* requests for attention */
	uint64_t traps[257]; /* by vector; 256 is NO_TRAP */
	uint64_t run_ns; /* nanoseconds inside KVM_RUN while timed is set */
	uint64_t timed; /* somebody wants to know */

	uint64_t thread; /* number (gettid) of the thread inside kvmhost_enter, or 0 */
};

/* Go into the Guest and stay until something needs Python. */
int kvmhost_enter(struct kvmhost_cpu *cpu);
/* Show the vCPU what its Guest may have changed since: root, kernel stack, TS.  kvmhost_enter does it. */
void kvmhost_fit(struct kvmhost_cpu *cpu);
/* Let the Host do the mailbox's work and come back without a world switch. */
int kvmhost_visit(struct kvmhost_cpu *cpu);
/* Ask for attention: ATTENTION_* bits.  From any thread. */
void kvmhost_post(struct kvmhost_cpu *cpu, uint32_t why);
/* Take what was asked for, leaving nothing. */
uint32_t kvmhost_take(struct kvmhost_cpu *cpu);
/* Interrupt KVM_RUN by a signal: for a vCPU that does not answer to kicks. */
int kvmhost_signal(struct kvmhost_cpu *cpu);
/* The number of that signal, which no thread may block. */
int kvmhost_wake_signal(void);
/* Words in VM memory that several threads change: locked operations only. */
void kvmhost_set_bits(volatile uint32_t *word, uint32_t bits);
void kvmhost_clear_bits(volatile uint32_t *word, uint32_t bits);
/* What was written before is seen by all before anything behind is read. */
void kvmhost_fence(void);

#endif
