/* The lab's first process.  Linux has booted on an emulated CPU and runs this as PID 1 from
 * the initramfs.  It turns the bare kernel into the machine outside: the same files, the
 * same user, the same streams, and a /dev/kvm that works.  Then it runs one command, sends
 * the exit code through the control port, and waits to be switched off.
 *
 * Read in this order: init.c, modules.c, ports.c, job.c, tree.c, network.c, command.c, relay.c. */
#include "lab.h"
#include "sys.h"
#include "text.h"
#include <linux/reboot.h>

static struct job job;
static struct command command;

void die(const char *what, long number)
{
	char text[4200];
	char *end = text_append(text, "kvmhost lab: ");

	end = text_append(end, text_length(what) < 4096 ? what : "a very long path");
	end = text_append(text_append_number(text_append(end, ": "), number), "\n");
	sys_write(2, text, (size_t)(end - text));
	/* QEMU runs with -no-reboot, so this ends it. */
	SYS4(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_RESTART, 0);
	for (;;)
		SYS0(pause);
}

static void open_console(void)
{
	int fd;

	sys_mkdir("/dev");
	SYS5(mount, "dev", "/dev", "devtmpfs", 0, "");
	fd = sys_open("/dev/console", O_RDWR);
	for (int i = 0; i < 3; i++)
		sys_dup2(fd, i);
}

/* [L30] Linux has booted on the emulated CPU and found nothing but this.  Five seconds have
 * passed, most of them spent emulating Linux; the rest takes a moment. */
__attribute__((used, noreturn)) static void lab_main(void)
{
	int control, children;

	open_console();
	modules_load();
	control = port_open(PORT_CONTROL);
	job_read(control, &job);
	channels_give(&job);
	tree_enter(&job);
	network_start();
	children = relay_watch_children();
	command_start(&job, &command);
	relay_run(control, children, &command);
	for (;;)
		SYS0(pause);
}

/* The kernel leaves the stack aligned to 16, and a call expects it 8 below that. */
__asm__(".globl _start\n"
	"_start:\n"
	"    xor %ebp, %ebp\n"
	"    call lab_main\n");
