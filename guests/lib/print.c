/*
 * Words, from a format.
 *
 * Until there is a console with a driver they go out in pieces, as large as the early
 * console of lguest's own kernels took them: whoever serves those serves us.
 */
#include "guest.h"

#include "early_console.h"
#include "format.h"

#define LINE 512

struct out {
	char *at, *end;
};

static void put(struct out *out, char c)
{
	if (out->at < out->end)
		*out->at++ = c;
}

static void put_number(struct out *out, uint32_t value, uint32_t base, unsigned int width, char pad)
{
	char digits[10];
	unsigned int n = 0;

	do {
		digits[n++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	for (; width > n; width--)
		put(out, pad);
	while (n)
		put(out, digits[--n]);
}

/* One conversion, FORMAT just behind its '%'; returns where the format goes on. */
static const char *put_conversion(struct out *out, const char *format, va_list *args)
{
	unsigned int width = 0;
	char pad = *format == '0' ? '0' : ' ';

	for (; *format >= '0' && *format <= '9'; format++)
		width = width * 10 + (unsigned int)(*format - '0');
	switch (*format) {
	case 'u':
		put_number(out, va_arg(*args, uint32_t), 10, width, pad);
		break;
	case 'x':
		put_number(out, va_arg(*args, uint32_t), 16, width, pad);
		break;
	case 'c':
		put(out, (char)va_arg(*args, int));
		break;
	case 's':
		for (const char *text = va_arg(*args, const char *); *text; text++)
			put(out, *text);
		break;
	default:
		put(out, *format);
	}
	return format + 1;
}

void format_text(char *buffer, size_t size, const char *format, va_list args)
{
	struct out out = {buffer, buffer + size - 1};
	va_list rest;

	va_copy(rest, args);
	while (*format) {
		char c = *format++;

		if (c == '%' && *format)
			format = put_conversion(&out, format, &rest);
		else
			put(&out, c);
	}
	va_end(rest);
	*out.at = 0;
}

static void (*speak)(const char *text);

void print_through(void (*speaker)(const char *text))
{
	speak = speaker;
}

static void speak_early(const char *at)
{
	char chunk[EARLY_CHUNK + 1];

	while (*at) {
		unsigned int n = 0;

		while (n < EARLY_CHUNK && *at)
			chunk[n++] = *at++;
		chunk[n] = 0;
		early_console(chunk);
	}
}

void print(const char *format, ...)
{
	char line[LINE];
	va_list args;

	va_start(args, format);
	format_text(line, sizeof(line), format, args);
	va_end(args);
	if (speak)
		speak(line);
	else
		speak_early(line);
}
