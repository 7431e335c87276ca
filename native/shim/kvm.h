/*
 * /dev/kvm for C and Python: one way to call an ioctl, and a door to each of the
 * structures that <linux/kvm.h> keeps in unions without names.  What Python sees
 * of <linux/kvm.h> itself is listed in cdef/, a file a subject.
 */
#ifndef KVMHOST_SHIM_KVM_H
#define KVMHOST_SHIM_KVM_H

#include <linux/kvm.h>
#include <sys/mman.h>

/* ioctl(fd, request, arg): the result, or -errno. */
long kvmhost_ioctl(int fd, unsigned long request, void *arg);

/* The same for an ioctl whose argument is a number. */
long kvmhost_ioctl_number(int fd, unsigned long request, unsigned long arg);

struct kvm_pic_state *kvmhost_pic(struct kvm_irqchip *chip);
struct kvm_ioapic_state *kvmhost_ioapic(struct kvm_irqchip *chip);
struct kvm_irq_routing_irqchip *kvmhost_route_pin(struct kvm_irq_routing_entry *entry);
struct kvm_irq_routing_msi *kvmhost_route_msi(struct kvm_irq_routing_entry *entry);
struct kvm_sync_regs *kvmhost_sync_regs(struct kvm_run *run);
struct kvm_hyperv_exit *kvmhost_hyperv_exit(struct kvm_run *run);
struct kvm_xen_exit *kvmhost_xen_exit(struct kvm_run *run);

#endif
