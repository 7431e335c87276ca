/* What the pieces of the lab's first process know of each other, in the order they run.
 *
 * The lab talks to the machine outside through virtio-serial ports, one purpose each.
 * kvmhost/lab/plumbing.py has the other ends. */
#ifndef KVMHOST_LAB_LAB_H
#define KVMHOST_LAB_LAB_H

#include <stddef.h>

/* Port numbers; 0 is the console's in virtio's own numbering. */
enum port { PORT_STDIN = 1, PORT_STDOUT, PORT_STDERR, PORT_CONTROL, PORT_TERMINAL, PORT_CHANNELS };

#define MAX_CHANNELS 20 /* further ports, which are the command's; QEMU has 31 in all */

#define MAX_WRITABLE 32
#define MAX_STRINGS 16384
#define MAX_GROUPS 1024

/* What to run, as Python packed it (kvmhost/lab/job.py); all text points into one buffer. */
struct job {
	unsigned int uid, gid, umask;
	unsigned int groups[MAX_GROUPS];
	int group_count;
	int on_terminal[3]; /* stdin, stdout, stderr: is it the terminal? */
	unsigned int rows, columns;
	int channel_count;
	char *writable[MAX_WRITABLE];
	int writable_count;
	char *cached[MAX_WRITABLE]; /* parts of those that come from the overlay all the same */
	int cached_count;
	char *folder;
	char *program;
	char *environment[MAX_STRINGS + 1];
	char *arguments[MAX_STRINGS + 1];
};

/* init.c: says on the console what failed, and ends the lab.  The console is what Python
 * shows when a lab dies without an exit code. */
void die(const char *what, long number) __attribute__((noreturn));

/* modules.c: loads what the initramfs lists, in its order. */
void modules_load(void);

/* ports.c: waits until a port exists and its outside end is connected; waits until the
 * channels exist and makes them the user's. */
int port_open(enum port port);
void channels_give(const struct job *job);

/* job.c */
void job_read(int control, struct job *job);

/* tree.c: the host's files beneath an overlay; becomes the root. */
void tree_enter(const struct job *job);

/* network.c: the loopback, and the card behind QEMU's gateway if there is one. */
void network_start(void);

/* command.c: the command, and our ends of its streams (-1: that stream is the terminal). */
struct command {
	int pid;
	int streams[3];
	int terminal; /* the pty's master, or -1 */
};
void command_start(const struct job *job, struct command *command);

/* relay.c: a descriptor that is readable when a child has died (ask before there is one);
 * then carries bytes until the command has ended and its exit code has been sent. */
int relay_watch_children(void);
void relay_run(int control, int children, const struct command *command);

#endif
