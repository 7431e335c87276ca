/*
 * [R70] The clock event of the Guest that is on a vCPU.
 *
 * A kernel orders its next tick thousands of times a minute.  A thread of Python's that
 * is woken for each order, and again for each tick, takes the interpreter away from the
 * vCPU both times.  So the tick of a running Guest is a timer of the kernel's: an order
 * is one system call, which wakes nobody, and the thread that waits for the timer needs
 * no interpreter to raise the interrupt and kick.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "alarm.h"

#define CLOCK_IRQ 1 /* bit 0 of irqs_pending */

struct kvmhost_alarm {
	struct kvmhost_cpu *cpu;
	pthread_t thread;
	pthread_mutex_t lock; /* of all that follows */
	int timer;
	int over;
	uint64_t rings; /* when interrupt 0 is due, 0: never */
	volatile uint32_t *irqs; /* where */
	uint64_t looks; /* when attention is asked for, 0: never */
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Wind the timer for whatever comes first; one that is long due rings at once. */
static void wind(struct kvmhost_alarm *alarm)
{
	uint64_t first = alarm->rings;
	struct itimerspec when = {0};

	if (alarm->looks && (!first || alarm->looks < first))
		first = alarm->looks;
	when.it_value.tv_sec = (time_t)(first / 1000000000);
	when.it_value.tv_nsec = (long)(first % 1000000000);
	timerfd_settime(alarm->timer, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Whether an order is due; it is then no order any more. */
static int due(uint64_t *when, uint64_t now)
{
	if (!*when || *when > now)
		return 0;
	*when = 0;
	return 1;
}

/* Everything that is due, and whether that is the end.  The bit is set under the lock: an order that
 * replaces this one either comes before it, or finds it done. */
static int serve(struct kvmhost_alarm *alarm)
{
	uint64_t now = now_ns();
	int post = 0, over;

	pthread_mutex_lock(&alarm->lock);
	over = alarm->over;
	if (!over) {
		if (due(&alarm->rings, now)) {
			kvmhost_set_bits(alarm->irqs, CLOCK_IRQ);
			post = 1;
		}
		post |= due(&alarm->looks, now);
		wind(alarm);
	}
	pthread_mutex_unlock(&alarm->lock);
	if (post)
		kvmhost_post(alarm->cpu, ATTENTION_EVENT);
	return !over;
}

static void *wait_for_timer(void *argument)
{
	struct kvmhost_alarm *alarm = argument;
	uint64_t times;

	do {
		while (read(alarm->timer, &times, sizeof(times)) < 0 && errno == EINTR)
			;
	} while (serve(alarm));
	return NULL;
}

/* No signal of the process may land on the thread. */
static int start(struct kvmhost_alarm *alarm)
{
	sigset_t all, before;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&alarm->thread, NULL, wait_for_timer, alarm);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

struct kvmhost_alarm *kvmhost_alarm_make(struct kvmhost_cpu *cpu)
{
	struct kvmhost_alarm *alarm = calloc(1, sizeof(*alarm));
	int error;

	if (!alarm)
		return NULL;
	alarm->cpu = cpu;
	alarm->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	if (alarm->timer < 0) {
		error = errno;
	} else {
		pthread_mutex_init(&alarm->lock, NULL);
		error = start(alarm);
		if (!error)
			return alarm;
		pthread_mutex_destroy(&alarm->lock);
		close(alarm->timer);
	}
	free(alarm);
	errno = error;
	return NULL;
}

void kvmhost_alarm_free(struct kvmhost_alarm *alarm)
{
	pthread_mutex_lock(&alarm->lock);
	alarm->over = 1;
	alarm->rings = 0;
	alarm->looks = 1; /* long ago */
	wind(alarm);
	pthread_mutex_unlock(&alarm->lock);
	pthread_join(alarm->thread, NULL);
	pthread_mutex_destroy(&alarm->lock);
	close(alarm->timer);
	free(alarm);
}

uint64_t kvmhost_alarm_ring(struct kvmhost_alarm *alarm, volatile uint32_t *irqs, uint64_t when)
{
	uint64_t before;

	pthread_mutex_lock(&alarm->lock);
	before = alarm->rings;
	alarm->rings = when;
	alarm->irqs = irqs;
	if (before != when)
		wind(alarm);
	pthread_mutex_unlock(&alarm->lock);
	return before;
}

void kvmhost_alarm_look(struct kvmhost_alarm *alarm, uint64_t when)
{
	pthread_mutex_lock(&alarm->lock);
	if (!alarm->looks || when < alarm->looks) {
		alarm->looks = when;
		wind(alarm);
	}
	pthread_mutex_unlock(&alarm->lock);
}
