/*
 * The floor under every figure of an exit: a VM made and run by nothing but the ioctls it
 * takes, and loops in C around one system call.  Read by C and, through cffi, by Python.
 */
#ifndef KVMHOST_BENCH_FLOOR_H
#define KVMHOST_BENCH_FLOOR_H

#include <stdint.h>

/* What a floor VM has: one slot of memory from 0 on, one vCPU, flat 32-bit ring 0 without paging. */
#define FLOOR_MEMORY 0x00100000
#define FLOOR_TEXT 0x00001000 /* where the program goes and starts */
#define FLOOR_MMIO 0x00200000 /* nothing is there */
#define FLOOR_PORT 0xE0
#define FLOOR_FRAME_WORDS 18 /* as many registers as a Guest's frame has */

struct floor_vm {
	int32_t kvm, vm, vcpu;
	uint32_t run_bytes;
	void *run; /* struct kvm_run * */
	uint8_t *memory;
};

/* What some operations took, of the wall clock and of this thread's CPU time. */
struct floor_time {
	uint64_t wall_ns;
	uint64_t cpu_ns;
	uint64_t other_exits; /* KVM_RUN returned with another reason than the one expected */
};

/* The number of the request, for those who call ioctl(2) themselves. */
uint64_t floor_run_request(void);
/* The exit reason in a run page. */
uint32_t floor_exit_reason(const void *run);

/*
 * Makes a VM.  KVM is an open /dev/kvm, or -1 to open it.  0 or -errno; then nothing is left.
 * There are no interrupt controllers in it, so HLT leaves the VM.
 */
int floor_create(struct floor_vm *vm, int32_t kvm, const uint8_t *text, uint32_t bytes);
void floor_destroy(struct floor_vm *vm);

/* KVM_RUN so many times; each must end for REASON (KVM_EXIT_*).  0 or -errno. */
int floor_run(int32_t vcpu, const void *run, uint64_t loops, uint32_t reason, struct floor_time *time);
/* The same with KVM_GET_REGS and KVM_SET_REGS after each, as a Host without shared memory needs them. */
int floor_run_registers(int32_t vcpu, const void *run, uint64_t loops, uint32_t reason,
			struct floor_time *time);
/* The same, and FLOOR_FRAME_WORDS words read from and written to SHARED instead. */
int floor_run_shared(int32_t vcpu, const void *run, uint64_t loops, uint32_t reason,
		     volatile uint32_t *shared, struct floor_time *time);
/* KVM_RUN with an interrupt window requested: each returns as soon as the Guest could take one. */
int floor_run_window(int32_t vcpu, void *run, uint64_t loops, struct floor_time *time);

/* kvmhost_enter, or any function like it, so many times; each must return EXPECTED. */
typedef int (*floor_enter)(void *cpu);
int floor_enter_loop(floor_enter enter, void *cpu, uint64_t loops, int expected, struct floor_time *time);
/* A loop with nothing in it but the call of an empty function: what the others count besides. */
int floor_nothing(uint64_t loops, struct floor_time *time);

/*
 * Something done to a vCPU that another thread runs, and how long until it shows.  Before each, the
 * Guest is awaited: the word at RUNNING goes up while it runs.  Then BITS are set at PENDING (if any)
 * and, by KIND, POST is called with WHY, a byte counter is written to FD, or the VM whose file is FD is
 * sent a message that is an NMI for its vCPU 0 (a vCPU's own ioctl would wait until it comes out).  It
 * shows when the word at SHOWS has changed, or is zero if TO_ZERO.
 */
#define FLOOR_POST 0
#define FLOOR_EVENTFD 1
#define FLOOR_NMI 2
#define FLOOR_NOTHING 3 /* the waiting alone: SHOWS is RUNNING */

typedef void (*floor_post)(void *cpu, uint32_t why);

struct floor_provocation {
	uint32_t kind;
	floor_post post;
	void *cpu;
	uint32_t why;
	int32_t fd;
	volatile uint32_t *pending;
	uint32_t bits;
	volatile uint32_t *running;
	volatile uint32_t *shows;
	uint32_t to_zero;
};

/* So many times, one after the other; nanoseconds from doing it until it shows.  0, -errno or -ETIME. */
int floor_provoke(const struct floor_provocation *what, uint64_t loops, struct floor_time *time);

/*
 * From nothing to a Guest's first instruction, and to nothing again, once: create, run to the
 * first exit, destroy.  Nanoseconds of each part.  0 or -errno.
 */
int floor_life(int32_t kvm, const uint8_t *text, uint32_t bytes, uint64_t *create_ns, uint64_t *first_ns,
	       uint64_t *destroy_ns);

#endif
