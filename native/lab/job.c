/* What to run arrives through the control port: a line "job SIZE", then SIZE bytes of
 * NUL-terminated fields.  Numbers are decimal text: a layout shared by C and Python would
 * be one more thing to keep in step. */
#include "lab.h"
#include "sys.h"
#include "text.h"
#include <asm/poll.h>

#define MAX_JOB (2 << 20)

static char bytes[MAX_JOB + 1];
static char *next_field;

static void read_exactly(int fd, char *to, long size)
{
	struct pollfd readable = {fd, POLLIN, 0};

	while (size) {
		long got;

		SYS3(poll, &readable, 1, -1);
		got = sys_read(fd, to, (size_t)size);
		if (got <= 0)
			die("reading the job", got);
		to += got;
		size -= got;
	}
}

static long read_size(int fd)
{
	char line[32];
	const char *at = line;
	size_t length = 0;

	do
		read_exactly(fd, line + length, 1);
	while (line[length++] != '\n' && length < sizeof(line) - 1);
	line[length] = 0;
	if (!text_starts(&at, "job "))
		die("the control port does not start with a job", line[0]);
	return text_number(&at);
}

static char *field(void)
{
	char *start = next_field;

	next_field += text_length(start) + 1;
	return start;
}

static unsigned int number(void)
{
	const char *text = field();

	return (unsigned int)text_number(&text);
}

static int count(unsigned int limit)
{
	unsigned int value = number();

	if (value > limit)
		die("the job has too many parts", value);
	return (int)value;
}

static void strings(char **to)
{
	int length = count(MAX_STRINGS);

	for (int i = 0; i < length; i++)
		to[i] = field();
	to[length] = 0;
}

void job_read(int control, struct job *job)
{
	long size = read_size(control);

	if (size > MAX_JOB)
		die("the job is too large", size);
	read_exactly(control, bytes, size);
	bytes[size] = 0;
	next_field = bytes;

	job->uid = number();
	job->gid = number();
	job->group_count = count(MAX_GROUPS);
	for (int i = 0; i < job->group_count; i++)
		job->groups[i] = number();
	job->umask = number();
	for (int i = 0; i < 3; i++)
		job->on_terminal[i] = (int)number();
	job->rows = number();
	job->columns = number();
	job->channel_count = count(MAX_CHANNELS);
	job->writable_count = count(MAX_WRITABLE);
	for (int i = 0; i < job->writable_count; i++)
		job->writable[i] = field();
	job->cached_count = count(MAX_WRITABLE);
	for (int i = 0; i < job->cached_count; i++)
		job->cached[i] = field();
	job->folder = field();
	job->program = field();
	strings(job->environment);
	strings(job->arguments);
}
