/*
 * [B40] No system call besides KVM_RUN: whoever says so should be watched.
 *
 * A seccomp filter lets KVM_RUN pass and has the kernel tell a second thread of every other
 * call, which counts it and lets it go on (seccomp_unotify(2)).  That thread exists before the
 * filter, or it would be watched itself.  It ends when the watched one has.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "watch.h"

static void *listen_to(void *argument)
{
	struct floor_watch *watch = argument;
	struct pollfd wait = {.events = POLLIN};

	while ((wait.fd = __atomic_load_n(&watch->listener, __ATOMIC_ACQUIRE)) == -1)
		usleep(100);
	if (wait.fd < 0)
		return NULL; /* there is no filter after all */
	while (poll(&wait, 1, -1) > 0 && (wait.revents & POLLIN)) {
		struct seccomp_notif call = {0};
		struct seccomp_notif_resp answer = {.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};

		if (ioctl(wait.fd, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0)
			continue; /* a signal took it back */
		watch->last = call.data.nr;
		__atomic_add_fetch(&watch->others, 1, __ATOMIC_SEQ_CST);
		answer.id = call.id;
		ioctl(wait.fd, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
	close(wait.fd);
	return NULL;
}

static int install_filter(void)
{
	struct sock_filter steps[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, KVM_RUN, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
	};
	struct sock_fprog program = {.len = sizeof(steps) / sizeof(steps[0]), .filter = steps};
	int listener;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	listener =
	    (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
	return listener < 0 ? -errno : listener;
}

int floor_watch_begin(struct floor_watch *watch)
{
	pthread_t thread;
	int listener;

	*watch = (struct floor_watch){.listener = -1};
	if (pthread_create(&thread, NULL, listen_to, watch) != 0)
		return -EAGAIN;
	pthread_detach(thread);
	listener = install_filter();
	/* From here on nobody may call the system before the other thread knows the file. */
	__atomic_store_n(&watch->listener, listener < 0 ? -2 : listener, __ATOMIC_RELEASE);
	return listener < 0 ? listener : 0;
}
