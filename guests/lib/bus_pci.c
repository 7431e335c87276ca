/*
 * The bus of 4.0 and later: virtio 1.0 over PCI, as Linux drives it.
 *
 * The registers are in BAR 0, behind the end of RAM.  Every access to them is a page fault that
 * the Host decodes, so they are made as Linux makes them: by six plain instructions
 * with the address in a register.
 */
#include "device.h"
#include "pci.h"

#if HAS_PCI

#define COMMON(field) (PCI_BAR_COMMON + offsetof(struct virtio_common, field))
#define BAR_BYTES 128
#define VERSION_1_BIT (1u << (VIRTIO_F_VERSION_1 - 32))
#define USED_ALIGN 64

static uint32_t read8(const struct device *device, uint32_t offset)
{
	uint32_t value = 0;

	__asm__ volatile("movb (%%eax), %%al" : "=a"(value) : "a"(device->registers + offset) : "memory");
	return value & 0xFF;
}

static uint32_t read16(const struct device *device, uint32_t offset)
{
	uint32_t value = 0;

	__asm__ volatile("movw (%%eax), %%ax" : "=a"(value) : "a"(device->registers + offset) : "memory");
	return value & 0xFFFF;
}

static uint32_t read32(const struct device *device, uint32_t offset)
{
	uint32_t value = 0;

	__asm__ volatile("movl (%%eax), %%eax" : "=a"(value) : "a"(device->registers + offset) : "memory");
	return value;
}

static void write8(const struct device *device, uint32_t offset, uint32_t value)
{
	__asm__ volatile("movb %%al, (%%edx)" : : "a"(value), "d"(device->registers + offset) : "memory");
}

static void write16(const struct device *device, uint32_t offset, uint32_t value)
{
	__asm__ volatile("movw %%ax, (%%edx)" : : "a"(value), "d"(device->registers + offset) : "memory");
}

static void write32(const struct device *device, uint32_t offset, uint32_t value)
{
	__asm__ volatile("movl %%eax, (%%edx)" : : "a"(value), "d"(device->registers + offset) : "memory");
}

static void add_status(const struct device *device, uint32_t status)
{
	write8(device, COMMON(status), read8(device, COMMON(status)) | status);
}

/* As Linux finds out that there is such a bus: an address reads back, and slot 0 is a bridge. */
static bool bus_answers(void)
{
	pci_write32(0, 0, 0);
	return pci_read16(0, PCI_CLASS) == 0x0600;
}

/* Where a part lies in BAR 0, by its capability. */
static uint32_t part_at(uint32_t slot, uint32_t type)
{
	uint32_t capability = pci_capability(slot, type);

	if (!capability)
		fail("the device in slot %u has no capability of type %u", slot, type);
	if (pci_read8(slot, capability + PCI_CAP_BAR) != 0)
		fail("the device in slot %u has a part outside of BAR 0", slot);
	return pci_read32(slot, capability + PCI_CAP_OFFSET);
}

static void check_parts(uint32_t slot)
{
	if (part_at(slot, PCI_CAP_COMMON) != PCI_BAR_COMMON ||
	    part_at(slot, PCI_CAP_NOTIFY) != PCI_BAR_NOTIFY || part_at(slot, PCI_CAP_ISR) != PCI_BAR_ISR)
		fail("the device in slot %u has its parts at other places", slot);
}

bool device_find(uint32_t id, uint32_t number, struct device *device)
{
	uint32_t slot = 1, bar;

	if (!bus_answers())
		fail("there is no PCI bus");
	while (slot < PCI_SLOTS && (pci_read32(slot, PCI_ID) != PCI_ID_VIRTIO(id) || number--))
		slot++;
	if (slot == PCI_SLOTS)
		return false;
	check_parts(slot);
	bar = pci_read32(slot, PCI_BAR0) & ~0xFu;
	*device = (struct device){.id = id, .slot = slot, .irqs = 1u << pci_read8(slot, PCI_INTERRUPT_LINE)};
	device->registers = device_memory(bar, BAR_BYTES);
	write8(device, COMMON(status), 0);
	if (read8(device, COMMON(status)) != 0)
		fail("the device in slot %u is not reset", slot);
	add_status(device, VIRTIO_ACKNOWLEDGE);
	add_status(device, VIRTIO_DRIVER);
	return true;
}

static void negotiate(struct device *device, uint32_t wanted)
{
	write32(device, COMMON(device_select), 0);
	device->offered = read32(device, COMMON(device_features));
	write32(device, COMMON(device_select), 1);
	if (!(read32(device, COMMON(device_features)) & VERSION_1_BIT))
		fail("the device in slot %u does not offer VERSION_1", device->slot);
	device->accepted = device->offered & wanted;
	write32(device, COMMON(driver_select), 0);
	write32(device, COMMON(driver_features), device->accepted);
	write32(device, COMMON(driver_select), 1);
	write32(device, COMMON(driver_features), VERSION_1_BIT);
	add_status(device, VIRTIO_FEATURES_OK);
	if (!(read8(device, COMMON(status)) & VIRTIO_FEATURES_OK))
		fail("the device in slot %u refuses the features 0x%x", device->slot, device->accepted);
}

/* Rings of ours, in one piece, the used one behind the others at the next line of the cache. */
static void make_queue(struct device *device, uint32_t index)
{
	struct queue *queue = &device->queues[index];
	uint32_t available, used, end, ring;

	write16(device, COMMON(queue_select), index);
	queue->entries = read16(device, COMMON(queue_size));
	if (!queue->entries || read16(device, COMMON(queue_enable)))
		fail("queue %u of slot %u is not there, or in use", index, device->slot);
	queue->kick = index;
	available = queue->entries * (uint32_t)sizeof(struct virtio_descriptor);
	used = (available + VIRTIO_RING_BYTES + 2 * queue->entries + 2 + USED_ALIGN - 1) & ~(USED_ALIGN - 1u);
	end = used + VIRTIO_RING_BYTES + 8 * queue->entries + 2;
	ring = page_alloc();
	for (uint32_t at = PAGE_BYTES; at < end; at += PAGE_BYTES)
		page_alloc();
	write16(device, COMMON(queue_size), queue->entries);
	write32(device, COMMON(queue_desc_low), ring);
	write32(device, COMMON(queue_desc_high), 0);
	write32(device, COMMON(queue_avail_low), ring + available);
	write32(device, COMMON(queue_avail_high), 0);
	write32(device, COMMON(queue_used_low), ring + used);
	write32(device, COMMON(queue_used_high), 0);
	queue->descriptors = seen_at(ring);
	queue->available = seen_at(ring + available);
	queue->used = seen_at(ring + used);
	queue_begin(queue);
}

void device_accept(struct device *device, uint32_t wanted)
{
	negotiate(device, wanted);
	device->queue_count = read16(device, COMMON(queues));
	if (device->queue_count > DEVICE_QUEUES)
		device->queue_count = DEVICE_QUEUES;
	for (uint32_t i = 0; i < device->queue_count; i++)
		make_queue(device, i);
	for (uint32_t i = 0; i < device->queue_count; i++) {
		write16(device, COMMON(queue_select), i);
		write16(device, COMMON(queue_enable), 1);
	}
}

bool device_config(const struct device *device, uint32_t offset, uint32_t bytes, uint32_t *value)
{
	uint32_t at = PCI_BAR_DEVICE + offset;

	*value = bytes == 1 ? read8(device, at) : bytes == 2 ? read16(device, at) : read32(device, at);
	return true;
}

void device_go(struct device *device)
{
	add_status(device, VIRTIO_DRIVER_OK);
}

void device_reset(struct device *device)
{
	write8(device, COMMON(status), 0);
	if (read8(device, COMMON(status)) != 0)
		fail("the device in slot %u is not reset", device->slot);
}

void bus_kick(const struct device *device, const struct queue *queue)
{
	write16(device, PCI_BAR_NOTIFY, queue->kick);
}

bool bus_acknowledge(const struct device *device)
{
	return read8(device, PCI_BAR_ISR) & VIRTIO_ISR_QUEUE;
}

#endif
