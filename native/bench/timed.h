/* The parts of the Guest that is timed. */
#ifndef TIMED_H
#define TIMED_H

#include "guest.h"

#include "command.h"

extern volatile struct bench_command command;

typedef void (*routine)(uint32_t loops);

/* timed_handlers.S */
extern const uint8_t return_at_once[];

void traps_ready(const struct tables *tables);
void exceptions(uint32_t loops);
void exceptions_direct(void);
void exceptions_bounced(void);
void cpuids(uint32_t loops);
void port_reads(uint32_t loops);
/* Returns the cycles that ring 3 counted itself. */
uint64_t user_calls(uint32_t loops);
void spin(uint32_t loops);

void paging_ready(bool pae);
void touch(uint32_t loops);
void flush(uint32_t loops);
void set_ptes(uint32_t loops);
void queue_ptes(uint32_t loops);
void switch_roots(uint32_t loops);
/* Entries made, tables chosen: what a routine needs and is not timed. */
void touch_prepare(uint32_t loops);
void switch_prepare(uint32_t loops);

#endif
