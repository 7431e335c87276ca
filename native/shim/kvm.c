#include <errno.h>
#include <sys/ioctl.h>

#include "kvm.h"

long kvmhost_ioctl(int fd, unsigned long request, void *arg)
{
	long result = ioctl(fd, request, arg);

	return result < 0 ? -errno : result;
}
