/* Text from a format, into a buffer of SIZE bytes that always ends with a zero. */
#ifndef FORMAT_H
#define FORMAT_H

#include <stdarg.h>
#include <stddef.h>

void format_text(char *buffer, size_t size, const char *format, va_list args);

#endif
