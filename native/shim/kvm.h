/* KVM's own structures and ioctls, for Python. */
#ifndef KVMHOST_SHIM_KVM_H
#define KVMHOST_SHIM_KVM_H

#include <linux/kvm.h>

/* ioctl(fd, request, arg): the result, or -errno. */
long kvmhost_ioctl(int fd, unsigned long request, void *arg);

#endif
