/*
 * The part of lguest's ABI that a Guest can see: hypercalls, lguest_data, the
 * async ring.  Read by our own Guests (C and assembler), by the asserts, and by
 * Python through cffi.
 */
#ifndef KVMHOST_ABI_LGUEST_H
#define KVMHOST_ABI_LGUEST_H

#include <stdint.h>

/*
 * Hypercall numbers.  Which of them exist, and which registers carry the arguments,
 * changed with the kernels (kvmhost/host/abi.py); a number never came back with
 * another meaning but for 15, which was called SET_PMD while there was no PAE.
 */
#define LHCALL_FLUSH_ASYNC 0
#define LHCALL_LGUEST_INIT 1
#define LHCALL_SHUTDOWN 2 /* CRASH, without a reason, before 2.6.26 */
#define LHCALL_LOAD_GDT 3 /* to 2.6.29 */
#define LHCALL_NEW_PGTABLE 4
#define LHCALL_FLUSH_TLB 5
#define LHCALL_LOAD_IDT_ENTRY 6
#define LHCALL_SET_STACK 7
#define LHCALL_TS 8
#define LHCALL_SET_CLOCKEVENT 9
#define LHCALL_HALT 10
#define LHCALL_SET_PMD 13
#define LHCALL_SET_PTE 14
#define LHCALL_SET_PGD 15
#define LHCALL_LOAD_TLS 16
#define LHCALL_NOTIFY 17
#define LHCALL_LOAD_GDT_ENTRY 18
#define LHCALL_SEND_INTERRUPTS 19

#define LGUEST_SHUTDOWN_POWEROFF 1
#define LGUEST_SHUTDOWN_RESTART 2

#define LHCALL_RING_SIZE 64
#define LHCALL_RING_FREE 0xFF
#define LGUEST_IRQ_BASE 32
#define LGUEST_IRQS 32
#define EFLAGS_IF_BIT 0x200

struct lguest_ring_entry {
	uint32_t arg0, arg1, arg2, arg3, arg4;
};

/* Kernels 2.6.24 to 2.6.29 have fewer argument registers, in an order of their own. */
struct lguest_ring_entry_2624 {
	uint32_t number, arg2, arg3, arg1;
};

/* 2.6.30 has as many, in the order of its successors. */
struct lguest_ring_entry_2630 {
	uint32_t number, arg1, arg2, arg3;
};

/* Kernels 2.6.24 to 2.6.29. */
struct lguest_data_2624 {
	uint32_t irq_enabled; /* 0 or 512, written by both */
	uint32_t blocked_interrupts;
	uint32_t cr2;
	uint32_t time_sec, time_nsec;
	uint8_t hcall_status[64];
	struct lguest_ring_entry_2624 hcalls[64];
	uint32_t reserve_mem;
	uint32_t tsc_khz;
	uint32_t pgdir;
	uint32_t noirq_start, noirq_end;
	uint32_t kernel_address;
	uint32_t syscall_vec;
};

/* Kernel 2.6.30: the same, but for the order in a ring entry. */
struct lguest_data_2630 {
	uint32_t irq_enabled;
	uint32_t blocked_interrupts;
	uint32_t cr2;
	uint32_t time_sec, time_nsec;
	uint8_t hcall_status[64];
	struct lguest_ring_entry_2630 hcalls[64];
	uint32_t reserve_mem;
	uint32_t tsc_khz;
	uint32_t pgdir;
	uint32_t noirq_start, noirq_end;
	uint32_t kernel_address;
	uint32_t syscall_vec;
};

/* Kernels 2.6.31 to 3.0. */
struct lguest_data_2631 {
	uint32_t irq_enabled;
	uint32_t blocked_interrupts;
	uint32_t cr2;
	uint32_t time_sec, time_nsec;
	uint32_t irq_pending;
	uint8_t hcall_status[64];
	struct lguest_ring_entry hcalls[64];
	uint32_t reserve_mem;
	uint32_t tsc_khz;
	uint32_t pgdir;
	uint32_t noirq_start, noirq_end;
	uint32_t kernel_address;
	uint32_t syscall_vec;
};

/* Kernels 3.1 to 4.0: a window of addresses in which no interrupt may come. */
struct lguest_data_31 {
	uint32_t irq_enabled; /* 0 or 512, written by both */
	uint32_t blocked_interrupts;
	uint32_t cr2;
	uint32_t time_sec, time_nsec;
	uint32_t irq_pending;
	uint8_t hcall_status[64];
	struct lguest_ring_entry hcalls[64];
	uint32_t reserve_mem;
	uint32_t tsc_khz;
	uint32_t noirq_start, noirq_end;
	uint32_t kernel_address;
	uint32_t syscall_vec;
};

/* Kernels 4.1 and later: the window is one instruction. */
struct lguest_data_41 {
	uint32_t irq_enabled;
	uint32_t blocked_interrupts;
	uint32_t cr2;
	uint32_t time_sec, time_nsec;
	uint32_t irq_pending;
	uint8_t hcall_status[64];
	struct lguest_ring_entry hcalls[64];
	uint32_t reserve_mem;
	uint32_t tsc_khz;
	uint32_t noirq_iret;
	uint32_t kernel_address;
	uint32_t syscall_vec;
};

#endif
