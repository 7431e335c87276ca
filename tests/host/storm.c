/*
 * A storm of kicks, without Python in between: one thread posts, waits until the post was taken, and posts
 * again; the vCPU's thread enters the Guest and takes what it was woken for.  Whatever the Guest traps for is
 * answered by entering it again.
 *
 * The poster looks every few microseconds.  On one CPU that is what makes a kick out of most posts: while it
 * is away the vCPU's thread gets back into the Guest, and its timer takes the CPU from there.
 */
#include <pthread.h>
#include <stdint.h>
#include <time.h>

#include "run.h"

struct storm {
	struct kvmhost_cpu *cpu;
	int (*enter)(struct kvmhost_cpu *);
	void (*post)(struct kvmhost_cpu *, uint32_t);
	uint32_t (*take)(struct kvmhost_cpu *);
	uint64_t wanted;
	uint64_t posted;
	uint64_t taken; /* takes that found the bit */
	uint64_t empty; /* attention without a bit: one delivered twice */
	uint64_t traps;
	int64_t failed; /* what enter returned that is neither */
};

static void *posts(void *argument)
{
	const struct timespec moment = {.tv_nsec = 20000};
	struct storm *storm = argument;

	while (storm->posted < storm->wanted && !__atomic_load_n(&storm->failed, __ATOMIC_SEQ_CST)) {
		storm->post(storm->cpu, ATTENTION_EVENT);
		storm->posted++;
		while (__atomic_load_n(&storm->taken, __ATOMIC_SEQ_CST) < storm->posted &&
		       !__atomic_load_n(&storm->failed, __ATOMIC_SEQ_CST))
			nanosleep(&moment, NULL);
	}
	return NULL;
}

int storm(struct storm *storm)
{
	pthread_t thread;
	int left;

	if (pthread_create(&thread, NULL, posts, storm))
		return -1;
	while (storm->taken < storm->wanted && !storm->failed) {
		left = storm->enter(storm->cpu);
		if (left == LEFT_TRAP)
			storm->traps++;
		else if (left != LEFT_ATTENTION)
			__atomic_store_n(&storm->failed, left ? left : -1, __ATOMIC_SEQ_CST);
		else if (storm->take(storm->cpu) & ATTENTION_EVENT)
			__atomic_add_fetch(&storm->taken, 1, __ATOMIC_SEQ_CST);
		else
			storm->empty++;
	}
	return pthread_join(thread, NULL);
}
