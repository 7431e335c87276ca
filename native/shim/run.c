/*
 * [R10] The hot run loop, outside the VM.
 *
 * A trap of the Guest's arrives here as an OUT by the ring-0 Host.  What needs a
 * decision goes on to Python; what is no trap at all stays: an interrupt that
 * only carried a kick whose reason has been dealt with, a signal, the counting.
 * No ioctl but KVM_RUN is made in here, and nothing is allocated.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "run.h"

/* A real-time signal that nobody else is likely to use.  It does nothing: its
 * arrival ends KVM_RUN, and that is all it is for. */
#define WAKE_SIGNAL (SIGRTMIN + 6)

static void ignore_wake(int number)
{
	(void)number;
}

/* Installed before the first signal can be sent, once for the process. */
__attribute__((constructor)) static void install_wake_handler(void)
{
	struct sigaction action = {.sa_handler = ignore_wake};

	sigaction(WAKE_SIGNAL, &action, NULL);
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/*
 * [R20] A signal has ended KVM_RUN, at whatever instruction the vCPU was: perhaps
 * in the middle of the Switcher.  Its registers are not in the frame and nothing
 * may be looked at.  So raise the kick and go back in until the Host's OUT; and
 * have ourselves signalled again in case that never comes.
 */
struct patience {
	int64_t deadline; /* 0: no signal came yet */
	timer_t timer;
	int armed;
};

static void lose_patience_later(struct patience *patience)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = WAKE_SIGNAL};
	/* Again and again after the first time: a signal that comes just before KVM_RUN does not end it. */
	struct itimerspec when = {.it_value = {.tv_sec = KVMHOST_PATIENCE_MS / 1000, .tv_nsec = 1000000},
				  .it_interval = {.tv_nsec = 100000000}};

	patience->deadline = now_ms() + KVMHOST_PATIENCE_MS;
	event._sigev_un._tid = gettid();
	if (timer_create(CLOCK_MONOTONIC, &event, &patience->timer) == 0) {
		patience->armed = 1;
		timer_settime(patience->timer, 0, &when, NULL);
	}
}

static void end_patience(struct patience *patience)
{
	if (patience->armed)
		timer_delete(patience->timer);
}

static void kick(struct kvmhost_cpu *cpu)
{
	const uint64_t one = 1;
	ssize_t written;

	__atomic_add_fetch(&cpu->kicks, 1, __ATOMIC_RELAXED);
	do {
		written = write(cpu->kick_fd, &one, sizeof(one));
	} while (written < 0 && errno == EINTR);
}

/*
 * [R30] Who wants the vCPU's ear sets a bit, then looks where the vCPU is; the
 * vCPU says where it is, then looks for bits.  With a full fence between the two
 * steps on both sides one of them sees the other, so a post is never lost; and
 * only the post that found no bit set kicks, so it is never delivered twice.
 */
void kvmhost_post(struct kvmhost_cpu *cpu, uint32_t why)
{
	struct kvmhost_mailbox *mailbox = cpu->mailbox;
	uint32_t before;

	__atomic_add_fetch(&cpu->posts, 1, __ATOMIC_RELAXED);
	before = __atomic_fetch_or(&mailbox->attention, why, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (before == 0 && __atomic_load_n(&mailbox->where, __ATOMIC_SEQ_CST) == WHERE_IN)
		kick(cpu);
}

uint32_t kvmhost_take(struct kvmhost_cpu *cpu)
{
	return __atomic_exchange_n(&cpu->mailbox->attention, 0, __ATOMIC_SEQ_CST);
}

/* A number, and no pthread_t: one that has ended meanwhile leads nowhere. */
static uint64_t this_thread(void)
{
	static __thread pid_t number;

	if (!number)
		number = gettid();
	return (uint64_t)number;
}

int kvmhost_signal(struct kvmhost_cpu *cpu)
{
	uint64_t thread = __atomic_load_n(&cpu->thread, __ATOMIC_SEQ_CST);

	if (!thread)
		return ESRCH;
	return tgkill(getpid(), (pid_t)thread, WAKE_SIGNAL) == 0 ? 0 : errno;
}

/* KVM_RUN, and how long it took if somebody wants to know. */
static int run_once(struct kvmhost_cpu *cpu)
{
	struct timespec before, after;
	int result, error;

	cpu->runs++;
	if (!cpu->timed)
		return ioctl(cpu->fd, KVM_RUN, 0);
	clock_gettime(CLOCK_MONOTONIC, &before);
	result = ioctl(cpu->fd, KVM_RUN, 0);
	error = errno;
	clock_gettime(CLOCK_MONOTONIC, &after);
	cpu->run_ns +=
	    (uint64_t)((after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec);
	errno = error;
	return result;
}

/* Which door the ring-0 Host left by, or LEFT_EXIT for anything else. */
static int door(const struct kvm_run *run)
{
	if (run->exit_reason != KVM_EXIT_IO || run->io.direction != KVM_EXIT_IO_OUT)
		return LEFT_EXIT;
	switch (run->io.port) {
	case PORT_LEAVE:
		return LEFT_TRAP;
	case PORT_HOST_FAULT:
		return LEFT_HOST_FAULT;
	case PORT_SWITCHER_FAULT:
		return LEFT_SWITCHER_FAULT;
	default:
		return LEFT_EXIT;
	}
}

/* [R40] KVM_RUN until a door opens. */
static int run_to_door(struct kvmhost_cpu *cpu)
{
	struct patience patience = {0};
	int left;

	for (;;) {
		if (run_once(cpu) == 0) {
			left = door(cpu->run);
			break;
		}
		if (errno != EINTR) {
			left = -errno;
			break;
		}
		cpu->signals++;
		if (!patience.deadline) {
			lose_patience_later(&patience);
			__atomic_fetch_or(&cpu->mailbox->attention, ATTENTION_SIGNAL, __ATOMIC_SEQ_CST);
			kick(cpu);
		} else if (now_ms() >= patience.deadline) {
			left = LEFT_BROKEN;
			break;
		}
	}
	end_patience(&patience);
	return left;
}

/*
 * Behind trapnum the CPU's own words follow in every layout: error code, EIP, CS.
 */
static void note_trap(struct kvmhost_cpu *cpu)
{
	struct kvmhost_guest *guest = cpu->guest;
	struct kvmhost_trap_note *note;

	if (!guest)
		return;
	note = &guest->trap_notes[guest->traps_noted++ % TRAP_NOTES];
	note->trapnum = cpu->trapnum[0];
	note->errcode = cpu->trapnum[1];
	note->eip = cpu->trapnum[2];
	note->cs = cpu->trapnum[3] & 0xFFFF;
	note->eax = *cpu->eax;
	note->cr2 = cpu->mailbox->cr2;
}

/* An interrupt for the Host.  Its handler in the VM has acknowledged it. */
static int is_interrupt(uint32_t trapnum)
{
	return trapnum >= 32 && trapnum < 256 && trapnum != SYSCALL_VECTOR;
}

/*
 * [R50] What a Guest changes by plain words in its block, and so may have changed
 * at any trap: where its tables are, where a trap from ring 3 straight to ring 1
 * lands, and whether it wants to hear of the FPU's first use.
 */
void kvmhost_fit(struct kvmhost_cpu *cpu)
{
	const struct kvmhost_guest *guest = cpu->guest;
	struct kvmhost_mailbox *mailbox = cpu->mailbox;
	uint32_t cr0;

	if (!guest)
		return;
	mailbox->root = cpu->roots + guest->current_root * ROOT_BYTES;
	cpu->tss->esp1 = guest->esp1;
	cpu->tss->ss1 = guest->ss1;
	cr0 = cpu->cr0 | (guest->ts & CR0_TS);
	if (mailbox->cr0 != cr0) {
		mailbox->cr0 = cr0;
		mailbox->work |= WORK_CR0;
	}
}

/*
 * [R60] In, and out again.  Without attention the sum of it is one KVM_RUN a
 * trap.  The sentinel in trapnum is how a Switcher that cannot tell its own
 * faults from the Guest's leaves a trace: no stub ever stores 256.
 */
int kvmhost_enter(struct kvmhost_cpu *cpu)
{
	struct kvmhost_mailbox *mailbox = cpu->mailbox;
	uint32_t trapnum;
	int left;

	__atomic_store_n(&cpu->thread, this_thread(), __ATOMIC_SEQ_CST);
	kvmhost_fit(cpu);
	for (;;) {
		*cpu->trapnum = NO_TRAP;
		__atomic_store_n(&mailbox->where, WHERE_IN, __ATOMIC_SEQ_CST);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (__atomic_load_n(&mailbox->attention, __ATOMIC_SEQ_CST)) {
			left = LEFT_ATTENTION;
			break;
		}
		left = run_to_door(cpu);
		__atomic_store_n(&mailbox->where, WHERE_OUT, __ATOMIC_SEQ_CST);
		if (left != LEFT_TRAP)
			break;
		trapnum = *cpu->trapnum;
		cpu->switches++;
		cpu->traps[trapnum <= NO_TRAP ? trapnum : NO_TRAP]++;
		if (!is_interrupt(trapnum)) {
			note_trap(cpu);
			break;
		}
		if (__atomic_load_n(&mailbox->attention, __ATOMIC_SEQ_CST)) {
			left = LEFT_ATTENTION;
			break;
		}
		cpu->stale++;
	}
	__atomic_store_n(&mailbox->where, WHERE_OUT, __ATOMIC_SEQ_CST);
	__atomic_store_n(&cpu->thread, 0, __ATOMIC_SEQ_CST);
	return left;
}

int kvmhost_visit(struct kvmhost_cpu *cpu)
{
	int left;

	__atomic_store_n(&cpu->thread, this_thread(), __ATOMIC_SEQ_CST);
	left = run_to_door(cpu);
	__atomic_store_n(&cpu->thread, 0, __ATOMIC_SEQ_CST);
	return left;
}

int kvmhost_wake_signal(void)
{
	return WAKE_SIGNAL;
}

void kvmhost_set_bits(volatile uint32_t *word, uint32_t bits)
{
	__atomic_fetch_or(word, bits, __ATOMIC_SEQ_CST);
}

void kvmhost_clear_bits(volatile uint32_t *word, uint32_t bits)
{
	__atomic_fetch_and(word, ~bits, __ATOMIC_SEQ_CST);
}

void kvmhost_fence(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}
