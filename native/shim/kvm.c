#include "kvm.h"

#include <errno.h>
#include <sys/ioctl.h>

long kvmhost_ioctl(int fd, unsigned long request, void *arg)
{
	long result = ioctl(fd, request, arg);

	return result < 0 ? -errno : result;
}

long kvmhost_ioctl_number(int fd, unsigned long request, unsigned long arg)
{
	long result = ioctl(fd, request, arg);

	return result < 0 ? -errno : result;
}

struct kvm_pic_state *kvmhost_pic(struct kvm_irqchip *chip)
{
	return &chip->chip.pic;
}

struct kvm_ioapic_state *kvmhost_ioapic(struct kvm_irqchip *chip)
{
	return &chip->chip.ioapic;
}

struct kvm_irq_routing_irqchip *kvmhost_route_pin(struct kvm_irq_routing_entry *entry)
{
	return &entry->u.irqchip;
}

struct kvm_irq_routing_msi *kvmhost_route_msi(struct kvm_irq_routing_entry *entry)
{
	return &entry->u.msi;
}

struct kvm_sync_regs *kvmhost_sync_regs(struct kvm_run *run)
{
	return &run->s.regs;
}

struct kvm_hyperv_exit *kvmhost_hyperv_exit(struct kvm_run *run)
{
	return &run->hyperv;
}

struct kvm_xen_exit *kvmhost_xen_exit(struct kvm_run *run)
{
	return &run->xen;
}
