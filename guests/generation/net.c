/*
 * A network card: it has an address, a question goes out to everybody, and the answer of the
 * one who was asked comes in, with everything a frame and virtio's header must say.
 */
#include "checks.h"
#include "device.h"

#define RECEIVE 0
#define TRANSMIT 1
#define HEADER_BYTES (GENERATION < KERNEL(2, 6, 25) ? 8u : HAS_PCI ? 12u : 10u)
#define NET_F_MAC 5
#define BIT(n) (1u << (n))
#define BUFFERS 16
#define FRAME_BYTES_MOST 1518
#define FRAME_BYTES_LEAST 60
#define FOR_IT_AT_MOST 64 /* frames of others */

/* "An Ethernet Address Resolution Protocol", RFC 826, for IPv4 on Ethernet. */
struct arp_frame {
	uint8_t to[6], from[6];
	uint8_t type[2];
	uint8_t hardware[2], protocol[2], sizes[2], operation[2];
	uint8_t sender[6], sender_ip[4], target[6], target_ip[4];
};

static const uint8_t my_ip[4] = {10, 0, 2, 15};
static const uint8_t gateway_ip[4] = {10, 0, 2, 2};

static struct device card;
static uint8_t mac[6];

/* A page a buffer: the header at its start, the frame further on, a table of descriptors behind. */
static uint32_t buffer_of_head[256];

#define FRAME_AT 64
#define TABLE_AT 2048

static uint16_t offer(uint32_t queue, uint32_t page, uint32_t bytes)
{
	struct piece pieces[] = {{page, HEADER_BYTES, queue == RECEIVE},
				 {page + FRAME_AT, bytes, queue == RECEIVE}};

	if (card.accepted & BIT(VIRTIO_F_INDIRECT))
		return queue_put_indirect(&card.queues[queue], page + TABLE_AT, pieces, 2);
	return queue_put(&card.queues[queue], pieces, 2);
}

static bool same(const volatile uint8_t *a, const uint8_t *b, uint32_t bytes)
{
	for (uint32_t i = 0; i < bytes; i++)
		if (a[i] != b[i])
			return false;
	return true;
}

static const char *open_card(void)
{
	if (!device_find(VIRTIO_NET, 0, &card))
		return "there is no network card";
	device_accept(&card, BIT(NET_F_MAC) | BIT(VIRTIO_F_INDIRECT));
	if (card.queue_count != 2 || card.queues[RECEIVE].entries > 256)
		return because("a network card with %u queues", card.queue_count);
	for (uint32_t i = 0; i < 6; i++) {
		uint32_t byte;

		if (!device_config(&card, i, 1, &byte))
			return "the card does not tell its address";
		mac[i] = (uint8_t)byte;
	}
	if (mac[0] & 1)
		return because("the card's address begins with 0x%x, which is a group's", mac[0]);
	queue_interrupts(&card.queues[TRANSMIT], GENERATION < KERNEL(2, 6, 25));
	device_listen(&card);
	if (HAS_PCI)
		device_go(&card);
	for (uint32_t i = 0; i < BUFFERS; i++) {
		uint32_t page = page_alloc();

		buffer_of_head[offer(RECEIVE, page, FRAME_BYTES_MOST)] = page;
	}
	queue_kick(&card, &card.queues[RECEIVE]);
	if (!HAS_PCI)
		device_go(&card);
	return NULL;
}

static const char *ask(void)
{
	uint32_t page = page_alloc(), written;
	struct arp_frame *frame = seen_at(page + FRAME_AT);
	uint16_t given, head;

	*frame = (struct arp_frame){.to = {255, 255, 255, 255, 255, 255},
				    .type = {0x08, 0x06},
				    .hardware = {0, 1},
				    .protocol = {0x08, 0},
				    .sizes = {6, 4},
				    .operation = {0, 1}};
	for (uint32_t i = 0; i < 6; i++)
		frame->from[i] = frame->sender[i] = mac[i];
	for (uint32_t i = 0; i < 4; i++) {
		frame->sender_ip[i] = my_ip[i];
		frame->target_ip[i] = gateway_ip[i];
	}
	given = offer(TRANSMIT, page, FRAME_BYTES_LEAST);
	queue_kick(&card, &card.queues[TRANSMIT]);
	queue_wait_polling(&card.queues[TRANSMIT], &head, &written);
	if (head != given)
		return because("the card gave back chain %u, not %u", head, given);
	if (written != (GENERATION < KERNEL(2, 6, 25) ? FRAME_BYTES_LEAST : 0))
		return because("the card tells of %u bytes for a frame it sent", written);
	return NULL;
}

/* The next frame and its bytes; its buffer goes back to the card when the next one is asked for. */
static const volatile uint8_t *receive(uint32_t *bytes)
{
	static uint32_t page;
	uint32_t written;
	uint16_t head;

	if (page) {
		buffer_of_head[offer(RECEIVE, page, FRAME_BYTES_MOST)] = page;
		queue_kick(&card, &card.queues[RECEIVE]);
	}
	queue_wait_asleep(&card.queues[RECEIVE], &head, &written);
	page = buffer_of_head[head];
	if (!page || written < HEADER_BYTES + 14 || written > HEADER_BYTES + FRAME_BYTES_MOST)
		fail("a frame of %u bytes in chain %u", written, head);
	*bytes = written - HEADER_BYTES;
	return seen_at(page + FRAME_AT);
}

/* No offload was accepted, so the header may say nothing but, from 4.0 on, one buffer. */
static bool plain_header(const volatile uint8_t *frame)
{
	const volatile uint8_t *header = frame - FRAME_AT;

	return header[0] == 0 && header[1] == 0 && (!HAS_PCI || (header[10] == 1 && header[11] == 0));
}

const char *check_net(void)
{
	const char *problem = open_card();

	if (!problem)
		problem = ask();
	if (problem)
		return problem;
	for (uint32_t i = 0; i < FOR_IT_AT_MOST; i++) {
		uint32_t bytes;
		const volatile uint8_t *frame = receive(&bytes);
		const volatile struct arp_frame *arp = (const volatile struct arp_frame *)frame;

		if (!plain_header(frame))
			return "a header tells of what was not agreed upon";
		if (bytes < sizeof(*arp) || arp->type[0] != 0x08 || arp->type[1] != 0x06 ||
		    arp->operation[1] != 2)
			continue;
		if (!same(arp->sender_ip, gateway_ip, 4) || !same(arp->to, mac, 6) ||
		    !same(arp->target, mac, 6))
			return "an answer to another question";
		print("net: %02x:%02x:%02x:%02x:%02x:%02x is there.\n", arp->sender[0], arp->sender[1],
		      arp->sender[2], arp->sender[3], arp->sender[4], arp->sender[5]);
		return NULL;
	}
	return "nobody answered";
}
