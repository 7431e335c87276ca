/*
 * The console with its driver: what is typed comes in, whole and in order, and what is said
 * goes out.
 */
#include "checks.h"
#include "console.h"

#define LINE 128

const char *check_console(void)
{
	char line[LINE];

	if (!console_open())
		return "there is no console";
	print("Type a line of text.\n");
	console_read_line(line, sizeof(line));
	print("It has been read: %s\n", line);
	return NULL;
}
