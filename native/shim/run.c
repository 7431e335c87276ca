#include "run.h"

typedef int kvmhost_run_is_empty;
