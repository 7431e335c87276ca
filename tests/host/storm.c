/*
 * A storm of kicks, without Python in between: one thread posts, waits until the post was taken, and posts
 * again; the vCPU's thread enters the Guest and takes what it was woken for.  Whatever the Guest traps for is
 * answered by entering it again.
 *
 * A post kicks only a vCPU that is inside, so the poster stays away for a moment each time.  On a machine of
 * one CPU it must also be able to take the CPU from the Guest, which a real-time thread can.
 */
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdint.h>
#include <time.h>

#include "run.h"

struct storm {
	struct kvmhost_cpu *cpu;
	int (*enter)(struct kvmhost_cpu *);
	void (*post)(struct kvmhost_cpu *, uint32_t);
	uint32_t (*take)(struct kvmhost_cpu *);
	uint64_t wanted; /* kicks to be sent */
	uint64_t posted;
	uint64_t taken; /* takes that found the bit */
	uint64_t empty; /* attention without the bit: one post taken twice */
	uint64_t traps;
	int64_t failed; /* what enter returned that is neither */
};

static sem_t taken;
static int over;

static void *posts(void *argument)
{
	const struct timespec moment = {.tv_nsec = 100000};
	struct storm *storm = argument;
	const uint64_t end = storm->cpu->kicks + storm->wanted;

	while (__atomic_load_n(&storm->cpu->kicks, __ATOMIC_SEQ_CST) < end) {
		nanosleep(&moment, NULL);
		storm->posted++;
		storm->post(storm->cpu, ATTENTION_EVENT);
		sem_wait(&taken);
		if (storm->failed)
			break;
	}
	__atomic_store_n(&over, 1, __ATOMIC_SEQ_CST);
	storm->post(storm->cpu, ATTENTION_STOP);
	return NULL;
}

int storm(struct storm *storm)
{
	const struct sched_param first = {.sched_priority = 1};
	pthread_t thread;
	uint32_t why;
	int left;

	over = 0;
	sem_init(&taken, 0, 0);
	if (pthread_create(&thread, NULL, posts, storm))
		return -1;
	pthread_setschedparam(thread, SCHED_FIFO, &first); /* where it is allowed */
	while (!__atomic_load_n(&over, __ATOMIC_SEQ_CST)) {
		left = storm->enter(storm->cpu);
		if (left == LEFT_TRAP) {
			storm->traps++;
			continue;
		}
		if (left != LEFT_ATTENTION) {
			storm->failed = left ? left : -1;
			sem_post(&taken);
			break;
		}
		why = storm->take(storm->cpu);
		if (why & ATTENTION_EVENT) {
			storm->taken++;
			sem_post(&taken);
		} else if (!(why & ATTENTION_STOP)) {
			storm->empty++;
		}
	}
	return pthread_join(thread, NULL);
}
