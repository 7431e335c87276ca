/*
 * The console's driver, as hvc_console and virtio_console had it.
 *
 * Output is one buffer at a time, and the kernel spins until it is given back: no interrupt
 * is wanted for it.  For input 2.6.24 posted one page and looked now and then, later
 * kernels waited for an interrupt, and from 3.1 on the whole ring is full of buffers.
 */
#include "console.h"

#define INPUT 0
#define OUTPUT 1
#define PIECE 256
#define INPUT_POLLED (GENERATION < KERNEL(2, 6, 25))
#define INPUT_FILLS_RING (GENERATION >= KERNEL(3, 1, 0))
#define BUFFER_BYTES (INPUT_FILLS_RING ? 16u : PAGE_BYTES)

static struct device console;
static uint32_t input_page;
static char out[PIECE];

/* What came and was not asked for yet. */
static struct {
	const char *at;
	uint32_t left;
	uint16_t buffer;
} input;

/* One buffer a descriptor, so a chain's head tells which. */
static uint32_t buffer_at(uint16_t head)
{
	return input_page + (INPUT_FILLS_RING ? head * BUFFER_BYTES % PAGE_BYTES : 0);
}

static void post(void)
{
	struct queue *queue = &console.queues[INPUT];
	struct piece piece = {buffer_at(queue->free_head), BUFFER_BYTES, true};

	queue_put(queue, &piece, 1);
}

static void say(const char *text)
{
	struct queue *queue = &console.queues[OUTPUT];
	uint32_t written;
	uint16_t head, given;

	while (*text) {
		struct piece piece = {physical(out), 0, false};

		for (; piece.bytes < PIECE && *text; text++)
			out[piece.bytes++] = *text;
		given = queue_put(queue, &piece, 1);
		queue_kick(&console, queue);
		queue_wait_polling(queue, &head, &written);
		if (head != given)
			fail("the console gave back chain %u, not %u", head, given);
		if (written != (GENERATION < KERNEL(2, 6, 25) ? piece.bytes : 0))
			fail("the console used %u of the %u bytes it was to print", written, piece.bytes);
	}
}

bool console_open(void)
{
	if (!device_find(VIRTIO_CONSOLE, 0, &console))
		return false;
	device_accept(&console, 0);
	if (console.queue_count != 2)
		fail("a console with %u queues", console.queue_count);
	queue_interrupts(&console.queues[OUTPUT], GENERATION >= KERNEL(3, 1, 0));
	queue_interrupts(&console.queues[INPUT], !INPUT_POLLED);
	device_listen(&console);
	if (HAS_PCI)
		device_go(&console);
	input_page = page_alloc();
	for (uint32_t i = 0; i < (INPUT_FILLS_RING ? console.queues[INPUT].entries : 1); i++)
		post();
	queue_kick(&console, &console.queues[INPUT]);
	if (!HAS_PCI)
		device_go(&console);
	print_through(say);
	return true;
}

/* Gives the last buffer back to the device, and waits for the next. */
static void refill(void)
{
	struct queue *queue = &console.queues[INPUT];
	uint32_t written;
	uint16_t head;

	if (input.at) {
		post();
		queue_kick(&console, queue);
	}
	if (INPUT_POLLED)
		queue_wait_polling(queue, &head, &written);
	else
		queue_wait_asleep(queue, &head, &written);
	if (written > BUFFER_BYTES)
		fail("%u bytes of input for a buffer of %u", written, BUFFER_BYTES);
	input.at = seen_at(buffer_at(head));
	input.left = written;
}

void console_read_line(char *line, uint32_t size)
{
	uint32_t length = 0;

	for (;;) {
		char c;

		while (!input.left)
			refill();
		c = *input.at++;
		input.left--;
		if (c == '\n')
			break;
		if (length + 1 < size)
			line[length++] = c;
	}
	line[length] = 0;
}
