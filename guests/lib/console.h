/* A console with a driver: what print() says goes there from console_open() on, and lines come back. */
#ifndef CONSOLE_H
#define CONSOLE_H

#include "device.h"

/* False if there is no console. */
bool console_open(void);
/* Reads up to a newline, which is not kept; at most SIZE - 1 characters, and a zero behind them. */
void console_read_line(char *line, uint32_t size);

#endif
