/* The doors to the outside.  A port's device is /dev/vport<K>p<N>: N is the number that
 * QEMU was given, K counts consoles and is not always 0.  It appears some time after the
 * driver has loaded, and for a moment it exists while its other end does not yet count as
 * connected: reading it then says "end of file", which must not be believed. */
#include "lab.h"
#include "sys.h"
#include "text.h"
#include <asm/poll.h>
#include <linux/time.h>

#define WAIT_MS 2
#define PATIENCE_MS 20000
#define CONSOLES 4

static void wait_a_little(void)
{
	struct timespec moment = {0, WAIT_MS * 1000000L};

	SYS2(nanosleep, &moment, 0);
}

static void name(char *path, int console, int port)
{
	char *end = text_append_number(text_append(path, "/dev/vport"), console);

	text_append_number(text_append(end, "p"), port);
}

static int try_open(enum port port)
{
	char path[32];

	for (int console = 0; console < CONSOLES; console++) {
		int fd;

		name(path, console, port);
		fd = sys_open(path, O_RDWR | O_NONBLOCK);
		if (fd >= 0)
			return fd;
	}
	return -1;
}

/* [L40] A port that is not connected yet looks just like one whose other end has been
 * closed.  So wait until it has been seen connected once; Python, for its part, closes
 * nothing before it has heard "started". */
int port_open(enum port port)
{
	struct pollfd state = {-1, POLLOUT, 0};

	for (int waited = 0; waited < PATIENCE_MS; waited += WAIT_MS) {
		if (state.fd < 0)
			state.fd = try_open(port);
		if (state.fd >= 0 && SYS3(poll, &state, 1, 0) >= 0 && !(state.revents & POLLHUP))
			return state.fd;
		wait_a_little();
	}
	die("no virtio-serial port", port);
}

static int try_give(int port, const struct job *job)
{
	char path[32];

	for (int console = 0; console < CONSOLES; console++) {
		name(path, console, port);
		if (!SYS3(chown, path, job->uid, job->gid))
			return 1;
	}
	return 0;
}

/* [L45] What the one outside serves to the one inside, a disk for example, comes through
 * ports too.  The command opens those itself (kvmhost/lab/channel.py): they only have to be
 * there, and the user's. */
void channels_give(const struct job *job)
{
	for (int port = PORT_CHANNELS; port < PORT_CHANNELS + job->channel_count; port++) {
		int waited = 0;

		while (!try_give(port, job)) {
			if (waited >= PATIENCE_MS)
				die("no virtio-serial port for a channel", port);
			wait_a_little();
			waited += WAIT_MS;
		}
	}
}
