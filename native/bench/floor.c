/*
 * [B10] What a KVM costs with nothing around it.
 *
 * Every figure of kvmhost's own is held against one of these, so there is no cleverness in
 * here and nothing shared with the product: ioctls in the order that KVM asks for them, and
 * loops whose body is a system call.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "floor.h"

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void begin(struct floor_time *time)
{
	time->other_exits = 0;
	time->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	time->wall_ns = clock_ns(CLOCK_MONOTONIC);
}

static void end(struct floor_time *time)
{
	time->wall_ns = clock_ns(CLOCK_MONOTONIC) - time->wall_ns;
	time->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - time->cpu_ns;
}

uint64_t floor_run_request(void)
{
	return KVM_RUN;
}

uint32_t floor_exit_reason(const void *run)
{
	return ((const struct kvm_run *)run)->exit_reason;
}

/* [B20] The shortest way to a vCPU: a VM, memory, the vCPU, its run page, its registers. */
static int make_vm(struct floor_vm *vm)
{
	struct kvm_userspace_memory_region slot = {.memory_size = FLOOR_MEMORY};
	int size;

	vm->vm = ioctl(vm->kvm, KVM_CREATE_VM, 0);
	if (vm->vm < 0)
		return -errno;
	vm->memory = mmap(NULL, FLOOR_MEMORY, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (vm->memory == MAP_FAILED) {
		vm->memory = NULL;
		return -errno;
	}
	slot.userspace_addr = (uintptr_t)vm->memory;
	if (ioctl(vm->vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		return -errno;
	vm->vcpu = ioctl(vm->vm, KVM_CREATE_VCPU, 0);
	if (vm->vcpu < 0)
		return -errno;
	size = ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < 0)
		return -errno;
	vm->run_bytes = (uint32_t)size;
	vm->run = mmap(NULL, vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
	if (vm->run == MAP_FAILED) {
		vm->run = NULL;
		return -errno;
	}
	return 0;
}

static struct kvm_segment flat(uint16_t selector, uint8_t type)
{
	return (struct kvm_segment){
	    .limit = 0xFFFFFFFF, .selector = selector, .type = type, .present = 1, .db = 1, .s = 1, .g = 1};
}

static int start_flat(const struct floor_vm *vm)
{
	struct kvm_regs regs = {.rip = FLOOR_TEXT, .rsp = FLOOR_MEMORY, .rflags = 0x2};
	struct kvm_sregs sregs;

	if (ioctl(vm->vcpu, KVM_GET_SREGS, &sregs) < 0)
		return -errno;
	sregs.cs = flat(0x08, 0xB);
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat(0x10, 0x3);
	sregs.cr0 |= 0x1; /* CR0.PE */
	if (ioctl(vm->vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vm->vcpu, KVM_SET_REGS, &regs) < 0)
		return -errno;
	return 0;
}

int floor_create(struct floor_vm *vm, int32_t kvm, const uint8_t *text, uint32_t bytes)
{
	int result;

	*vm = (struct floor_vm){.kvm = -1, .vm = -1, .vcpu = -1};
	if (bytes > FLOOR_MEMORY - FLOOR_TEXT)
		return -E2BIG;
	vm->kvm = kvm >= 0 ? fcntl(kvm, F_DUPFD_CLOEXEC, 0) : open("/dev/kvm", O_RDWR | O_CLOEXEC);
	result = vm->kvm < 0 ? -errno : make_vm(vm);
	if (result == 0) {
		memcpy(vm->memory + FLOOR_TEXT, text, bytes);
		result = start_flat(vm);
	}
	if (result < 0)
		floor_destroy(vm);
	return result;
}

void floor_destroy(struct floor_vm *vm)
{
	if (vm->run)
		munmap(vm->run, vm->run_bytes);
	if (vm->vcpu >= 0)
		close(vm->vcpu);
	if (vm->vm >= 0)
		close(vm->vm);
	if (vm->memory)
		munmap(vm->memory, FLOOR_MEMORY);
	if (vm->kvm >= 0)
		close(vm->kvm);
	*vm = (struct floor_vm){.kvm = -1, .vm = -1, .vcpu = -1};
}

/* [B30] The loops.  A signal that ends KVM_RUN is no exit of the Guest's; the call is made again. */
static int run_once(int32_t vcpu)
{
	while (ioctl(vcpu, KVM_RUN, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

int floor_run(int32_t vcpu, const void *run, uint64_t loops, uint32_t reason, struct floor_time *time)
{
	const volatile struct kvm_run *page = run;
	int result = 0;

	begin(time);
	while (loops-- && (result = run_once(vcpu)) == 0)
		time->other_exits += page->exit_reason != reason;
	end(time);
	return result;
}

int floor_run_registers(int32_t vcpu, const void *run, uint64_t loops, uint32_t reason,
			struct floor_time *time)
{
	const volatile struct kvm_run *page = run;
	struct kvm_regs regs;
	int result = 0;

	begin(time);
	while (loops-- && (result = run_once(vcpu)) == 0) {
		time->other_exits += page->exit_reason != reason;
		if (ioctl(vcpu, KVM_GET_REGS, &regs) < 0 || ioctl(vcpu, KVM_SET_REGS, &regs) < 0) {
			result = -errno;
			break;
		}
	}
	end(time);
	return result;
}

int floor_run_shared(int32_t vcpu, const void *run, uint64_t loops, uint32_t reason,
		     volatile uint32_t *shared, struct floor_time *time)
{
	const volatile struct kvm_run *page = run;
	int result = 0;

	begin(time);
	while (loops-- && (result = run_once(vcpu)) == 0) {
		time->other_exits += page->exit_reason != reason;
		for (int word = 0; word < FLOOR_FRAME_WORDS; word++)
			shared[word] += 1;
	}
	end(time);
	return result;
}

int floor_run_window(int32_t vcpu, void *run, uint64_t loops, struct floor_time *time)
{
	volatile struct kvm_run *page = run;
	int result;

	page->request_interrupt_window = 1;
	result = floor_run(vcpu, run, loops, KVM_EXIT_IRQ_WINDOW_OPEN, time);
	page->request_interrupt_window = 0;
	return result;
}

int floor_enter_loop(floor_enter enter, void *cpu, uint64_t loops, int expected, struct floor_time *time)
{
	begin(time);
	while (loops--)
		time->other_exits += enter(cpu) != expected;
	end(time);
	return 0;
}

__attribute__((noinline)) static void nothing(void)
{
	__asm__ volatile("");
}

int floor_nothing(uint64_t loops, struct floor_time *time)
{
	begin(time);
	while (loops--)
		nothing();
	end(time);
	return 0;
}

/* [B35] How long until it shows.  Whoever waits here gives the CPU away, for there may be only one. */
#define PATIENCE_NS 5000000000u

static int await(const volatile uint32_t *word, uint32_t before, int to_zero)
{
	uint64_t start = clock_ns(CLOCK_MONOTONIC);

	while (to_zero ? *word != 0 : *word == before) {
		sched_yield();
		if (clock_ns(CLOCK_MONOTONIC) - start > PATIENCE_NS)
			return -ETIME;
	}
	return 0;
}

static int provoke_once(const struct floor_provocation *what)
{
	const uint64_t one = 1;
	/* Intel SDM vol. 3, "Message Signalled Interrupts": to APIC 0, delivery mode NMI. */
	const struct kvm_msi nmi = {.address_lo = 0xFEE00000, .data = 0x400};

	if (what->pending)
		__atomic_fetch_or(what->pending, what->bits, __ATOMIC_SEQ_CST);
	switch (what->kind) {
	case FLOOR_POST:
		what->post(what->cpu, what->why);
		return 0;
	case FLOOR_EVENTFD:
		return write(what->fd, &one, sizeof(one)) < 0 ? -errno : 0;
	case FLOOR_NMI:
		return ioctl(what->fd, KVM_SIGNAL_MSI, &nmi) < 0 ? -errno : 0;
	default:
		return 0;
	}
}

int floor_provoke(const struct floor_provocation *what, uint64_t loops, struct floor_time *time)
{
	uint64_t wall = 0;
	int result = 0;

	begin(time);
	while (loops-- && result == 0) {
		uint32_t before;
		uint64_t start;

		result = await(what->running, *what->running, 0);
		if (result)
			break;
		before = *what->shows;
		start = clock_ns(CLOCK_MONOTONIC);
		result = provoke_once(what);
		if (result == 0)
			result = await(what->shows, before, (int)what->to_zero);
		wall += clock_ns(CLOCK_MONOTONIC) - start;
	}
	end(time);
	time->wall_ns = wall;
	return result;
}

int floor_life(int32_t kvm, const uint8_t *text, uint32_t bytes, uint64_t *create_ns, uint64_t *first_ns,
	       uint64_t *destroy_ns)
{
	struct floor_vm vm;
	uint64_t start = clock_ns(CLOCK_MONOTONIC), made, ran;
	int result = floor_create(&vm, kvm, text, bytes);

	if (result < 0)
		return result;
	made = clock_ns(CLOCK_MONOTONIC);
	result = run_once(vm.vcpu);
	ran = clock_ns(CLOCK_MONOTONIC);
	floor_destroy(&vm);
	*create_ns = made - start;
	*first_ns = ran - start;
	*destroy_ns = clock_ns(CLOCK_MONOTONIC) - ran;
	return result;
}
