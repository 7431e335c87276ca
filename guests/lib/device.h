/*
 * Devices as drivers see them, whichever bus leads there: rings to put buffers into, features
 * to agree on, a few bytes of configuration.  bus_page.c and bus_pci.c do what their
 * kernels did, step by step; queue.c is the same for both.
 */
#ifndef DEVICE_H
#define DEVICE_H

#include "guest.h"
#include "virtio.h"

#define DEVICE_QUEUES 2

/* A part of a request: RAM by physical address. */
struct piece {
	uint32_t address, bytes;
	bool device_writes;
};

struct queue {
	uint32_t entries;
	uint32_t irq;
	uint32_t kick; /* what the bus needs to know to kick it */
	volatile struct virtio_descriptor *descriptors;
	volatile struct virtio_ring *available, *used;
	uint16_t free_head, free_count, seen;
};

struct device {
	uint32_t id; /* VIRTIO_BLOCK, ... */
	uint32_t offered, accepted; /* features 0 to 31 */
	uint32_t queue_count;
	struct queue queues[DEVICE_QUEUES];
	uint32_t irqs; /* bit n: interrupt n is one of its */
	volatile uint32_t interrupts, strays;
	/* The bus's own: descriptor page or PCI slot. */
	uint32_t slot, physical;
	volatile uint8_t *registers;
};

/* Where the entries of a ring are. */
static inline volatile uint16_t *available_entries(const struct queue *queue)
{
	return (volatile uint16_t *)(queue->available + 1);
}

static inline volatile struct virtio_used_entry *used_entries(const struct queue *queue)
{
	return (volatile struct virtio_used_entry *)(queue->used + 1);
}

/* ---- the bus ---------------------------------------------------------------- */

/* The device number NUMBER of those with this id: reset, acknowledged, its features known. */
bool device_find(uint32_t id, uint32_t number, struct device *device);
/* Takes those of the offered features that are WANTED, and finds or makes the queues. */
void device_accept(struct device *device, uint32_t wanted);
/* The configuration, by fields of 1, 2 or 4 bytes; false where there is none. */
bool device_config(const struct device *device, uint32_t offset, uint32_t bytes, uint32_t *value);
/* Says DRIVER_OK. */
void device_go(struct device *device);
/* Stops it for good: its rings are ours again. */
void device_reset(struct device *device);
void bus_kick(const struct device *device, const struct queue *queue);
/* After an interrupt: whether it was the device's. */
bool bus_acknowledge(const struct device *device);

/* ---- queues ------------------------------------------------------------------ */

/* An empty queue over rings that are zero. */
void queue_begin(struct queue *queue);
/* Offers a chain of 1 to 8 pieces and returns its head. */
uint16_t queue_put(struct queue *queue, const struct piece *pieces, uint32_t count);
/* The same through a table of its own, which is one descriptor of the ring. */
uint16_t queue_put_indirect(struct queue *queue, uint32_t table, const struct piece *pieces, uint32_t count);
/* Tells the device, unless it does not want to hear. */
void queue_kick(struct device *device, struct queue *queue);
/* Takes a chain back that the device is done with; false if there is none. */
bool queue_take(struct queue *queue, uint16_t *head, uint32_t *written);
/* Whether the device is to interrupt us for this queue. */
void queue_interrupts(struct queue *queue, bool wanted);
/* Waits for one, by looking all the time or by sleeping; fail()s if it never comes. */
void queue_wait_polling(struct queue *queue, uint16_t *head, uint32_t *written);
void queue_wait_asleep(struct queue *queue, uint16_t *head, uint32_t *written);

/* ---- interrupts --------------------------------------------------------------- */

/* Takes the device's interrupts, and the clock's to notice one that never answers. */
void device_listen(struct device *device);

#endif
