/* Starting the command as the user who started the lab.  A stream that is the terminal
 * outside is a pseudo-terminal here, as ssh does it, so that Ctrl-C, line editing and the
 * window's size work as usual.  Every other stream is a pipe: programs know how to deal
 * with those, which a virtio port is not (it cannot be opened twice, and it never says
 * that its reader has gone). */
#include "lab.h"
#include "sys.h"
#include "text.h"
#include <asm/signal.h>
#include <asm/termios.h>

#define ENOENT 2
#define EXIT_CANNOT_RUN 126
#define EXIT_NOT_FOUND 127

/* A pipe for one stream; *ours is our end, the other is returned. */
static int make_pipe(int stream, int *ours)
{
	int ends[2];
	long result = SYS2(pipe2, ends, O_CLOEXEC);
	int reader_is_ours = stream != 0;

	if (result < 0)
		die("pipe", result);
	*ours = ends[reader_is_ours ? 0 : 1];
	SYS3(fcntl, *ours, F_SETFL, O_NONBLOCK);
	return ends[reader_is_ours ? 1 : 0];
}

/* Opens a pseudo-terminal of the right size; *master is our end, the other is returned. */
static int make_terminal(const struct job *job, int *master)
{
	struct winsize window = {(unsigned short)job->rows, (unsigned short)job->columns, 0, 0};
	struct termios settings;
	int unlocked = 0;
	int slave;

	*master = sys_open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK);
	if (*master < 0)
		die("/dev/ptmx", *master);
	SYS3(ioctl, *master, TIOCSPTLCK, &unlocked);
	slave = (int)SYS3(ioctl, *master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0)
		die("opening the terminal", slave);
	SYS3(ioctl, slave, TCGETS, &settings);
	settings.c_iflag |= IUTF8;
	SYS3(ioctl, slave, TCSETS, &settings);
	SYS3(ioctl, slave, TIOCSWINSZ, &window);
	return slave;
}

static void complain(const struct job *job, const char *what, long number)
{
	char text[4352];
	char *end = text_append(text, "kvmhost lab: ");

	end = text_append(text_append(end, what),
			  text_length(job->program) < 4096 ? job->program : "the command");
	end = text_append(text_append_number(text_append(end, ": error "), -number), "\n");
	sys_write(2, text, (size_t)(end - text));
}

/* [L60] Whoever starts a lab is root in no other machine, and is not to be in this one:
 * programs behave differently for root, and these should behave as they do outside. */
static void become_user(const struct job *job)
{
	SYS2(setgroups, job->group_count, job->groups);
	SYS3(setresgid, job->gid, job->gid, job->gid);
	SYS3(setresuid, job->uid, job->uid, job->uid);
	SYS1(umask, job->umask);
}

static void run(const struct job *job, const int theirs[3], int terminal)
{
	unsigned long no_signals = 0;
	long result;

	SYS4(rt_sigprocmask, SIG_SETMASK, &no_signals, 0, sizeof(no_signals));
	SYS0(setsid);
	if (terminal >= 0)
		SYS3(ioctl, terminal, TIOCSCTTY, 0);
	for (int i = 0; i < 3; i++)
		sys_dup2(theirs[i], i);
	become_user(job);
	result = SYS1(chdir, job->folder);
	if (result < 0) {
		complain(job, "cannot enter the folder for ", result);
		SYS1(exit_group, EXIT_CANNOT_RUN);
	}
	result = SYS3(execve, job->program, job->arguments, job->environment);
	complain(job, "cannot run ", result);
	SYS1(exit_group, result == -ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN);
}

void command_start(const struct job *job, struct command *command)
{
	int theirs[3];
	int slave = -1;

	command->terminal = -1;
	for (int i = 0; i < 3; i++) {
		command->streams[i] = -1;
		if (job->on_terminal[i] && slave < 0)
			slave = make_terminal(job, &command->terminal);
		theirs[i] = job->on_terminal[i] ? slave : make_pipe(i, &command->streams[i]);
	}
	command->pid = (int)SYS0(fork);
	if (command->pid < 0)
		die("fork", command->pid);
	if (!command->pid)
		run(job, theirs, slave);
	for (int i = 0; i < 3; i++)
		sys_close(theirs[i]);
}
