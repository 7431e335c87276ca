/*
 * Every system call of a thread but KVM_RUN is counted, by the kernel and not by asking the code.
 * Read by C and, through cffi, by Python.
 */
#ifndef KVMHOST_BENCH_WATCH_H
#define KVMHOST_BENCH_WATCH_H

#include <stdint.h>

struct floor_watch {
	uint64_t others; /* system calls so far that were not KVM_RUN */
	int32_t last; /* the number of the last of them */
	int32_t listener; /* the filter's file, -1 before there is one */
};

/*
 * From now on the calling thread is watched, until it ends: it must be one that was started for
 * this.  WATCH must outlive it.  0 or -errno, as on a kernel without seccomp's notifications.
 */
int floor_watch_begin(struct floor_watch *watch);

#endif
