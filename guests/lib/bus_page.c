/*
 * The bus of 2.6.24 to 3.19: descriptors on the page behind RAM, rings in those behind it.
 *
 * The first release has a list of types, lengths and values and marks what it has read; later
 * ones have a header and arrays.  What a driver announces by NOTIFY, and when, differed as
 * well: nothing at first, then every status, at last only the reset and the features.
 */
#include "device.h"

#if !HAS_PCI

#define BY_LIST (GENERATION < KERNEL(2, 6, 25))
#define ANNOUNCES_RESET (GENERATION >= KERNEL(2, 6, 26))
#define ANNOUNCES_STATUS (GENERATION >= KERNEL(2, 6, 26) && GENERATION < KERNEL(3, 1, 0))
#define ANNOUNCES_FEATURES (GENERATION >= KERNEL(3, 1, 0))

#define HEADER_BYTES (BY_LIST ? TLV_HEADER_BYTES : sizeof(struct device_header))
#define TLV_STATUS 2

static volatile uint8_t *page;

static uint32_t descriptor_bytes(const volatile uint8_t *at)
{
	const volatile struct device_header *its = (const volatile struct device_header *)at;

	if (BY_LIST)
		return TLV_HEADER_BYTES + at[1];
	return (uint32_t)sizeof(*its) + its->queues * sizeof(struct device_queue) + 2u * its->feature_bytes +
	       its->config_bytes;
}

static void set_status(struct device *device, uint8_t status, bool announce)
{
	device->registers[BY_LIST ? TLV_STATUS : offsetof(struct device_header, status)] = status;
	if (announce)
		hypercall(LHCALL_NOTIFY, device->physical, 0, 0, 0);
}

bool device_find(uint32_t id, uint32_t number, struct device *device)
{
	uint32_t offset = 0;

	if (!page)
		page = device_memory(ram_bytes(), PAGE_BYTES);
	while (offset < PAGE_BYTES - HEADER_BYTES && page[offset] && (page[offset] != id || number--))
		offset += descriptor_bytes(page + offset);
	if (page[offset] != id)
		return false;
	*device = (struct device){.id = id, .registers = page + offset, .physical = ram_bytes() + offset};
	if (ANNOUNCES_RESET)
		set_status(device, 0, true);
	set_status(device, VIRTIO_ACKNOWLEDGE, ANNOUNCES_STATUS);
	set_status(device, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER, ANNOUNCES_STATUS);
	return true;
}

static void take_queue(struct device *device, const volatile uint8_t *bytes)
{
	const volatile struct device_queue *told = (const volatile struct device_queue *)bytes;
	struct queue *queue = &device->queues[device->queue_count++];
	uint32_t used_at, available_at = told->entries * (uint32_t)sizeof(struct virtio_descriptor);
	volatile uint8_t *ring;

	queue->entries = told->entries;
	queue->irq = told->irq;
	queue->kick = told->frame * PAGE_BYTES;
	if (queue->entries & (queue->entries - 1))
		fail("a ring of %u entries", queue->entries);
	used_at = (available_at + VIRTIO_RING_BYTES + 2 * queue->entries + DEVICE_RING_ALIGN - 1) &
		  ~(DEVICE_RING_ALIGN - 1u);
	ring = device_memory(queue->kick, used_at + VIRTIO_RING_BYTES + 8 * queue->entries);
	queue->descriptors = (volatile struct virtio_descriptor *)ring;
	queue->available = (volatile struct virtio_ring *)(ring + available_at);
	queue->used = (volatile struct virtio_ring *)(ring + used_at);
	device->irqs |= 1u << queue->irq;
	if (queue->available->index || queue->used->index || queue->used->flags)
		fail("a ring that is not zero before its driver comes");
	queue_begin(queue);
}

#if BY_LIST
/* The value of the first entry of this type that was not taken, and takes it; NULL if there is none. */
static const volatile uint8_t *next_value(const struct device *device, uint32_t type, uint32_t bytes)
{
	volatile uint8_t *at = device->registers + TLV_HEADER_BYTES, *end = at + device->registers[1];

	for (; at < end; at += 2 + at[1]) {
		if (at[0] != type)
			continue;
		if (at[1] != bytes)
			fail("an entry of type 0x%x has %u bytes, not %u", type, at[1], bytes);
		at[0] |= TLV_CONSUMED;
		return at + 2;
	}
	return NULL;
}

void device_accept(struct device *device, uint32_t wanted)
{
	const volatile uint8_t *queue;

	(void)wanted;
	while (device->queue_count < DEVICE_QUEUES &&
	       (queue = next_value(device, TLV_QUEUE, sizeof(struct device_queue))))
		take_queue(device, queue);
}

/* Entries have no place, only types; what a driver of later asks by its offset is one of these. */
bool device_config(const struct device *device, uint32_t offset, uint32_t bytes, uint32_t *value)
{
	static const volatile uint8_t *capacity, *mac;

	if (device->id == VIRTIO_BLOCK && offset < 8) {
		if (!capacity)
			capacity = next_value(device, TLV_BLOCK_CAPACITY, 8);
		return capacity ? *value = *(const volatile uint32_t *)(capacity + offset), true : false;
	}
	if (device->id == VIRTIO_NET && offset < 6 && bytes == 1) {
		if (!mac)
			mac = next_value(device, TLV_NET_MAC, 6);
		return mac ? *value = mac[offset], true : false;
	}
	return false;
}
#else

static const volatile struct device_header *header(const struct device *device)
{
	return (const volatile struct device_header *)device->registers;
}

static volatile uint8_t *features(const struct device *device)
{
	return device->registers + HEADER_BYTES + header(device)->queues * sizeof(struct device_queue);
}

void device_accept(struct device *device, uint32_t wanted)
{
	uint32_t bytes = header(device)->feature_bytes;

	for (uint32_t i = 0; i < bytes && i < 4; i++)
		device->offered |= (uint32_t)features(device)[i] << 8 * i;
	device->accepted = device->offered & wanted;
	for (uint32_t i = 0; i < bytes && i < 4; i++)
		features(device)[bytes + i] = (uint8_t)(device->accepted >> 8 * i);
	if (ANNOUNCES_FEATURES)
		hypercall(LHCALL_NOTIFY, device->physical, 0, 0, 0);
	for (uint32_t i = 0; i < header(device)->queues && i < DEVICE_QUEUES; i++)
		take_queue(device, device->registers + HEADER_BYTES + i * sizeof(struct device_queue));
}

bool device_config(const struct device *device, uint32_t offset, uint32_t bytes, uint32_t *value)
{
	const volatile uint8_t *config = features(device) + 2 * header(device)->feature_bytes;

	if (offset + bytes > header(device)->config_bytes)
		return false;
	*value = 0;
	for (uint32_t i = 0; i < bytes; i++)
		*value |= (uint32_t)config[offset + i] << 8 * i;
	return true;
}
#endif

void device_go(struct device *device)
{
	set_status(device, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_DRIVER_OK, ANNOUNCES_STATUS);
}

void device_reset(struct device *device)
{
	set_status(device, 0, ANNOUNCES_RESET);
}

void bus_kick(const struct device *device, const struct queue *queue)
{
	(void)device;
	hypercall(LHCALL_NOTIFY, queue->kick, 0, 0, 0);
}

/* Nothing to do: a line is one queue's, and is never shared. */
bool bus_acknowledge(const struct device *device)
{
	(void)device;
	return true;
}

#endif
