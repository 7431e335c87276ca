/* The hot run loop. */
#ifndef KVMHOST_SHIM_RUN_H
#define KVMHOST_SHIM_RUN_H

#include <stdint.h>

#endif
