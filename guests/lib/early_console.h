/* Says TEXT, at most EARLY_CHUNK characters, before there is a driver for anything. */
#ifndef EARLY_CONSOLE_H
#define EARLY_CONSOLE_H

#define EARLY_CHUNK 16

void early_console(const char *text);

#endif
