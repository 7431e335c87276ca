/* Text without a library: lengths, decimal numbers, and what the compiler itself calls. */
#ifndef KVMHOST_LAB_TEXT_H
#define KVMHOST_LAB_TEXT_H

#include <stddef.h>

size_t text_length(const char *text);

/* Appends to a NUL-terminated text and returns where it now ends; the caller has room. */
char *text_append(char *end, const char *more);
char *text_append_number(char *end, long number);

/* Reads an unsigned decimal number, after any spaces; *text moves behind it. */
long text_number(const char **text);

/* True when text starts with word; *text then moves behind it. */
int text_starts(const char **text, const char *word);

#endif
