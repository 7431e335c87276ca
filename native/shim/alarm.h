/* A vCPU's alarm clock: declarations for C and, through cffi, for Python. */
#ifndef KVMHOST_SHIM_ALARM_H
#define KVMHOST_SHIM_ALARM_H

#include <stdint.h>

#include "run.h"

struct kvmhost_alarm;

/* An alarm clock for a vCPU; NULL, with errno, if there is no thread or no timer for it. */
struct kvmhost_alarm *kvmhost_alarm_make(struct kvmhost_cpu *cpu);
/* End its thread and free it. */
void kvmhost_alarm_free(struct kvmhost_alarm *alarm);
/* Raise virtual interrupt 0 in the word `irqs` at `when`, in nanoseconds of CLOCK_MONOTONIC, or never if it
 * is 0; what was ordered before is forgotten.  Returns when that would have come, 0 if it came or never was.
 */
uint64_t kvmhost_alarm_ring(struct kvmhost_alarm *alarm, volatile uint32_t *irqs, uint64_t when);
/* Ask for ATTENTION_EVENT at `when`; an order that is earlier stays. */
void kvmhost_alarm_look(struct kvmhost_alarm *alarm, uint64_t when);

#endif
