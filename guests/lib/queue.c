/*
 * Split virtqueues, the driver's side ("Virtqueues", VIRTIO 1.0).
 *
 * Order is everything: descriptors and the ring's entry first, then the index that makes
 * them the device's; the index of the used ring before its entries.  The CPU keeps stores
 * in order and loads in order, so what needs a fence is only the store of our index
 * against the load of the device's flags.
 */
#include "device.h"

#define SLEEPS_AT_MOST 60
#define NAP_NS 1000000000u
#define SPIN_AT_MOST ((uint64_t)1 << 36)

#define compiler_barrier() __asm__ volatile("" : : : "memory")
#define full_barrier() __asm__ volatile("lock; addl $0, (%%esp)" : : : "memory", "cc")

static volatile uint32_t naps;

void queue_begin(struct queue *queue)
{
	for (uint32_t i = 0; i < queue->entries; i++)
		queue->descriptors[i].next = (uint16_t)(i + 1);
	queue->free_head = 0;
	queue->free_count = (uint16_t)queue->entries;
	queue->seen = 0;
}

static void fill(volatile struct virtio_descriptor *descriptor, const struct piece *piece, bool more)
{
	descriptor->address = piece->address;
	descriptor->length = piece->bytes;
	descriptor->flags = (uint16_t)((piece->device_writes ? VIRTIO_WRITE : 0) | (more ? VIRTIO_NEXT : 0));
}

static void offer(struct queue *queue, uint16_t head)
{
	uint16_t index = queue->available->index;

	available_entries(queue)[index % queue->entries] = head;
	compiler_barrier();
	queue->available->index = (uint16_t)(index + 1);
}

uint16_t queue_put(struct queue *queue, const struct piece *pieces, uint32_t count)
{
	uint16_t head = queue->free_head, at = head;

	if (queue->free_count < count)
		fail("a queue of %u has no room for %u pieces", queue->entries, count);
	for (uint32_t i = 0; i < count; i++) {
		fill(&queue->descriptors[at], &pieces[i], i + 1 < count);
		at = queue->descriptors[at].next;
	}
	queue->free_head = at;
	queue->free_count = (uint16_t)(queue->free_count - count);
	offer(queue, head);
	return head;
}

uint16_t queue_put_indirect(struct queue *queue, uint32_t table, const struct piece *pieces, uint32_t count)
{
	volatile struct virtio_descriptor *entries = seen_at(table);
	uint16_t head = queue->free_head;

	for (uint32_t i = 0; i < count; i++) {
		fill(&entries[i], &pieces[i], i + 1 < count);
		entries[i].next = (uint16_t)(i + 1);
	}
	queue->descriptors[head].address = table;
	queue->descriptors[head].length = count * sizeof(struct virtio_descriptor);
	queue->descriptors[head].flags = VIRTIO_INDIRECT;
	queue->free_head = queue->descriptors[head].next;
	queue->free_count--;
	offer(queue, head);
	return head;
}

void queue_kick(struct device *device, struct queue *queue)
{
	full_barrier();
	if (!(queue->used->flags & VIRTIO_NO_NOTIFY))
		bus_kick(device, queue);
}

static void free_chain(struct queue *queue, uint16_t head)
{
	uint16_t at = head, count = 1;

	while (queue->descriptors[at].flags & VIRTIO_NEXT) {
		at = queue->descriptors[at].next;
		count++;
	}
	queue->descriptors[at].next = queue->free_head;
	queue->free_head = head;
	queue->free_count = (uint16_t)(queue->free_count + count);
}

bool queue_take(struct queue *queue, uint16_t *head, uint32_t *written)
{
	volatile struct virtio_used_entry *entry = &used_entries(queue)[queue->seen % queue->entries];

	if (queue->seen == queue->used->index)
		return false;
	compiler_barrier();
	if (entry->head >= queue->entries)
		fail("the device gives back chain %u, which cannot be", entry->head);
	*head = (uint16_t)entry->head;
	*written = entry->length;
	queue->seen++;
	free_chain(queue, *head);
	return true;
}

void queue_interrupts(struct queue *queue, bool wanted)
{
	queue->available->flags = wanted ? 0 : VIRTIO_NO_INTERRUPT;
}

static uint64_t rdtsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

void queue_wait_polling(struct queue *queue, uint16_t *head, uint32_t *written)
{
	uint64_t begin = rdtsc();

	while (!queue_take(queue, head, written))
		if (rdtsc() - begin > SPIN_AT_MOST)
			fail("a device never gave a chain back");
}

/* As an idle loop: look with interrupts off, and sleep in the call that turns them on. */
void queue_wait_asleep(struct queue *queue, uint16_t *head, uint32_t *written)
{
	naps = 0;
	hypercall(LHCALL_SET_CLOCKEVENT, NAP_NS, 0, 0, 0);
	for (;;) {
		interrupts_off();
		if (queue_take(queue, head, written))
			break;
		if (naps == SLEEPS_AT_MOST)
			fail("a device never interrupted for a chain");
		hypercall(LHCALL_HALT, 0, 0, 0, 0);
	}
	hypercall(LHCALL_SET_CLOCKEVENT, 0, 0, 0, 0);
	interrupts_on();
}

/* ---- interrupts --------------------------------------------------------------- */

static struct device *listeners[LGUEST_IRQS];

/* Masks its line while it works, as Linux's handler for levels does. */
static void device_interrupt(struct trap_frame *frame)
{
	uint32_t irq = frame->vector - LGUEST_IRQ_BASE;
	struct device *device = listeners[irq];

	lguest.blocked_interrupts |= 1u << irq;
	if (bus_acknowledge(device))
		device->interrupts++;
	else
		device->strays++;
	lguest.blocked_interrupts &= ~(1u << irq);
}

static void nap_over(struct trap_frame *frame)
{
	(void)frame;
	naps++;
	hypercall(LHCALL_SET_CLOCKEVENT, NAP_NS, 0, 0, 0);
}

void device_listen(struct device *device)
{
	set_gate(TIMER_VECTOR, GATE_INTERRUPT, 0, nap_over);
	for (uint32_t i = 0; i < LGUEST_IRQS; i++) {
		if (!(device->irqs & 1u << i))
			continue;
		listeners[i] = device;
		set_gate(LGUEST_IRQ_BASE + i, GATE_INTERRUPT, 0, device_interrupt);
		lguest.blocked_interrupts &= ~(1u << i);
	}
	lguest.blocked_interrupts &= ~1u;
}
