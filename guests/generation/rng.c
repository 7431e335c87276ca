/*
 * Random numbers: a buffer that is filled whole, and the next one with something else.
 */
#include "checks.h"
#include "device.h"

#define BYTES 64

static const char *ask(struct device *device, uint32_t buffer)
{
	struct piece piece = {buffer, BYTES, true};
	uint16_t given = queue_put(&device->queues[0], &piece, 1), head;
	uint32_t written;

	queue_kick(device, &device->queues[0]);
	if (!HAS_PCI)
		device_go(device);
	queue_wait_asleep(&device->queues[0], &head, &written);
	if (head != given || written != BYTES)
		return because("chain %u with %u bytes, not %u with %u", head, written, given, BYTES);
	return NULL;
}

const char *check_rng(void)
{
	uint32_t page = page_alloc(), differ = 0;
	const uint32_t *words = seen_at(page);
	static struct device device;
	const char *problem;

	if (!device_find(VIRTIO_RNG, 0, &device))
		return "there are no random numbers";
	device_accept(&device, 0);
	device_listen(&device);
	if (HAS_PCI)
		device_go(&device);
	problem = ask(&device, page);
	if (!problem)
		problem = ask(&device, page + BYTES);
	if (problem)
		return problem;
	for (uint32_t i = 0; i < BYTES / 4; i++)
		differ += words[i] != words[BYTES / 4 + i] && words[i] != words[(i + 1) % (BYTES / 4)];
	/* Two words are alike once in four thousand million times. */
	if (differ < BYTES / 4 - 1)
		return because("only %u of %u random words differ", differ, BYTES / 4);
	print("rng: twice %u bytes.\n", BYTES);
	return NULL;
}
