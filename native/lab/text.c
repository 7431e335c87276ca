/* Text without a library.  The compiler may turn any loop or assignment here into a call
 * of memcpy or memset, freestanding or not, so both exist. */
#include "text.h"

void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);

void *memcpy(void *to, const void *from, size_t size)
{
	void *start = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
	return start;
}

void *memset(void *to, int byte, size_t size)
{
	void *start = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(byte) : "memory");
	return start;
}

size_t text_length(const char *text)
{
	size_t length = 0;

	while (text[length])
		length++;
	return length;
}

char *text_append(char *end, const char *more)
{
	while (*more)
		*end++ = *more++;
	*end = 0;
	return end;
}

char *text_append_number(char *end, long number)
{
	char digits[24];
	char *first = digits + sizeof(digits) - 1;
	unsigned long rest = number < 0 ? 0UL - (unsigned long)number : (unsigned long)number;

	*first = 0;
	do
		*--first = (char)('0' + rest % 10);
	while (rest /= 10);
	if (number < 0)
		*--first = '-';
	return text_append(end, first);
}

long text_number(const char **text)
{
	const char *at = *text;
	long number = 0;

	while (*at == ' ')
		at++;
	while (*at >= '0' && *at <= '9')
		number = number * 10 + (*at++ - '0');
	*text = at;
	return number;
}

int text_starts(const char **text, const char *word)
{
	const char *at = *text;

	while (*word)
		if (*at++ != *word++)
			return 0;
	*text = at;
	return 1;
}
