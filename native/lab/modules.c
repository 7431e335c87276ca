/* The kernel of a distribution brings all it needs as modules.  Python has put them into
 * the initramfs, uncompressed and in an order in which each finds what it depends on. */
#include "lab.h"
#include "sys.h"
#include "text.h"

#define EEXIST 17

static char list[8192];

static void load(const char *name)
{
	char path[256];
	int fd;
	long result;

	text_append(text_append(path, "/modules/"), name);
	fd = sys_open(path, O_RDONLY);
	if (fd < 0)
		die(path, fd);
	result = SYS3(finit_module, fd, "", 0);
	if (result < 0 && result != -EEXIST)
		die(path, result);
	sys_close(fd);
}

void modules_load(void)
{
	int fd = sys_open("/modules/order", O_RDONLY);
	long size = sys_read(fd, list, sizeof(list) - 1);
	char *name = list;

	if (size < 0)
		die("reading the list of modules", size);
	for (char *at = list; at < list + size; at++) {
		if (*at != '\n')
			continue;
		*at = 0;
		load(name);
		name = at + 1;
	}
	sys_close(fd);
}
