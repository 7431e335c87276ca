/* Carrying bytes between the command's streams and the ports, and listening to the outside
 * for what is no byte of a stream: the window's size, signals, a reader that has gone.
 *
 * Each flow has one buffer.  While it is empty we wait for its source, while it is not we
 * wait for its target: so whoever is slow slows the other, and nothing is ever dropped. */
#include "lab.h"
#include "sys.h"
#include "text.h"
#include <asm/poll.h>
#include <asm/signal.h>
#include <asm/termios.h>
#include <linux/signalfd.h>

#define EAGAIN 11
#define WNOHANG 1
#define LAST_WORDS_MS 1000

enum flow_name { FLOW_IN, FLOW_OUT, FLOW_ERR, FLOW_KEYS, FLOW_SCREEN, FLOWS };

struct flow {
	int from, to; /* -1: this flow does not exist, or has ended */
	size_t start, end;
	long carried;
	char bytes[65536];
};

static struct flow flows[FLOWS];
static char line[256];
static size_t line_length;

static void flow_open(enum flow_name name, int from, int to)
{
	flows[name].from = from;
	flows[name].to = to;
}

static void flow_end(struct flow *flow)
{
	/* Only the command's own end is closed: its stdin must see the end of the file, its
	 * stdout that nobody reads any more.  The pseudo-terminal is shared by two flows. */
	if (flow == &flows[FLOW_IN])
		sys_close(flow->to);
	if (flow == &flows[FLOW_OUT] || flow == &flows[FLOW_ERR])
		sys_close(flow->from);
	flow->from = -1;
	flow->start = flow->end = 0;
}

static int flow_is_full(const struct flow *flow)
{
	return flow->start < flow->end;
}

/* [L70] One step of a flow: write what is there, or read what comes.  An error while
 * writing means that nobody will ever read; one while reading, that no more will come (a
 * pseudo-terminal says so with EIO when the last program on it has ended). */
static void flow_move(struct flow *flow)
{
	long moved;

	if (flow_is_full(flow)) {
		moved = sys_write(flow->to, flow->bytes + flow->start, flow->end - flow->start);
		if (moved > 0) {
			flow->start += (size_t)moved;
			flow->carried += moved;
		} else if (moved != -EAGAIN) {
			flow_end(flow);
		}
		return;
	}
	moved = sys_read(flow->from, flow->bytes, sizeof(flow->bytes));
	flow->start = 0;
	flow->end = moved > 0 ? (size_t)moved : 0;
	if (moved <= 0 && moved != -EAGAIN)
		flow_end(flow);
}

static struct pollfd flow_wish(const struct flow *flow)
{
	struct pollfd wish = {flow->from, POLLIN, 0};

	if (flow->from >= 0 && flow_is_full(flow)) {
		wish.fd = flow->to;
		wish.events = POLLOUT;
	}
	return wish;
}

static void obey(const struct command *command, const char *order)
{
	if (text_starts(&order, "size ")) {
		struct winsize window = {0, 0, 0, 0};

		window.ws_row = (unsigned short)text_number(&order);
		window.ws_col = (unsigned short)text_number(&order);
		SYS3(ioctl, command->terminal, TIOCSWINSZ, &window);
	} else if (text_starts(&order, "signal ")) {
		SYS2(kill, -command->pid, text_number(&order));
	} else if (text_starts(&order, "closed ")) {
		long stream = text_number(&order);

		if ((stream == 1 || stream == 2) && flows[stream].from >= 0)
			flow_end(&flows[stream]);
	}
}

static void listen(int control, const struct command *command)
{
	char byte;
	long got;

	while ((got = sys_read(control, &byte, 1)) == 1) {
		if (byte != '\n' && line_length < sizeof(line) - 1) {
			line[line_length++] = byte;
			continue;
		}
		line[line_length] = 0;
		line_length = 0;
		obey(command, line);
	}
	if (got != -EAGAIN)
		die("the outside has gone", got);
}

/* Collects the dead; PID 1 inherits everybody's.  True once the command is among them. */
static int reap(int children, int pid, int *code)
{
	struct signalfd_siginfo told;
	int status, dead, ended = 0;

	while (sys_read(children, &told, sizeof(told)) > 0)
		;
	while ((dead = (int)SYS4(wait4, -1, &status, WNOHANG, 0)) > 0) {
		if (dead != pid)
			continue;
		ended = 1;
		*code = status & 0x7F ? 128 + (status & 0x7F) : status >> 8 & 0xFF;
	}
	return ended;
}

/* What the command wrote before it ended still has to go out.  Everybody is dead by now,
 * so each source ends; the patience is for one that cannot die. */
static void drain(struct flow *flow)
{
	while (flow->from >= 0) {
		struct pollfd wish = flow_wish(flow);
		int to_the_outside = wish.events == POLLOUT;

		if (SYS3(poll, &wish, 1, to_the_outside ? -1 : LAST_WORDS_MS) == 0)
			return;
		if (to_the_outside && wish.revents & POLLHUP)
			die("the outside has gone", flow->carried);
		flow_move(flow);
	}
}

int relay_watch_children(void)
{
	unsigned long child = 1UL << (SIGCHLD - 1);

	SYS4(rt_sigprocmask, SIG_BLOCK, &child, 0, sizeof(child));
	return (int)SYS4(signalfd4, -1, &child, sizeof(child), SFD_NONBLOCK | SFD_CLOEXEC);
}

static void open_flows(const struct command *command)
{
	for (int i = 0; i < FLOWS; i++)
		flow_open(i, -1, -1);
	if (command->streams[0] >= 0)
		flow_open(FLOW_IN, port_open(PORT_STDIN), command->streams[0]);
	if (command->streams[1] >= 0)
		flow_open(FLOW_OUT, command->streams[1], port_open(PORT_STDOUT));
	if (command->streams[2] >= 0)
		flow_open(FLOW_ERR, command->streams[2], port_open(PORT_STDERR));
	if (command->terminal >= 0) {
		int port = port_open(PORT_TERMINAL);

		flow_open(FLOW_KEYS, port, command->terminal);
		flow_open(FLOW_SCREEN, command->terminal, port);
	}
}

/* [L80] A write to a port returns when the bytes are in QEMU's queue, not when they have
 * left it.  Switching off now would lose the last of them, so the exit code goes out with
 * the length of each stream, and Python switches off when it has received as much. */
static void report(int control, int code)
{
	char text[128];
	char *end = text_append_number(text_append(text, "exit "), code);

	end = text_append_number(text_append(end, " "), flows[FLOW_OUT].carried);
	end = text_append_number(text_append(end, " "), flows[FLOW_ERR].carried);
	end = text_append_number(text_append(end, " "), flows[FLOW_SCREEN].carried);
	end = text_append(end, "\n");
	sys_write(control, text, (size_t)(end - text));
}

void relay_run(int control, int children, const struct command *command)
{
	struct pollfd wishes[2 + FLOWS];
	int code = 0;

	open_flows(command);
	sys_write(control, "started\n", 8);
	do {
		wishes[0] = (struct pollfd){children, POLLIN, 0};
		wishes[1] = (struct pollfd){control, POLLIN, 0};
		for (int i = 0; i < FLOWS; i++)
			wishes[2 + i] = flow_wish(&flows[i]);
		SYS3(poll, wishes, 2 + FLOWS, -1);
		if (wishes[1].revents)
			listen(control, command);
		for (int i = 0; i < FLOWS; i++)
			if (wishes[2 + i].revents && flows[i].from >= 0)
				flow_move(&flows[i]);
	} while (!wishes[0].revents || !reap(children, command->pid, &code));

	SYS2(kill, -1, SIGKILL);
	drain(&flows[FLOW_OUT]);
	drain(&flows[FLOW_ERR]);
	drain(&flows[FLOW_SCREEN]);
	SYS0(sync);
	report(control, code);
}
