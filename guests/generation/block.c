/*
 * A disk: a region of its own, told by the generation, is written in several requests at once,
 * flushed as this generation can, read back in other pieces, and once more after a reset.
 * Whoever looks at the disk afterwards finds the pattern there.
 */
#include "block.h"
#include "checks.h"
#include "device.h"

#define REGION_SECTORS 64
#define REQUESTS 4
#define REQUEST_BYTES (REGION_SECTORS / REQUESTS * BLOCK_SECTOR)
#define HEADER_BYTES (GENERATION < KERNEL(2, 6, 25) ? 24u : (uint32_t)sizeof(struct block_request))
#define MULTIPLIER 2654435761u
#define BIT(n) (1u << (n))
/* Barriers up to 3.0, then flushes; the first release knew neither. */
#define WANTED                                                                                               \
	((GENERATION < KERNEL(3, 1, 0) ? BIT(BLOCK_F_BARRIER) : BIT(BLOCK_F_FLUSH)) | BIT(BLOCK_F_SEG_MAX))
#define KNOWS_IDS (GENERATION >= KERNEL(3, 1, 0))
#define KNOWS_SCSI (GENERATION < KERNEL(4, 0, 0))
#define NOT_WRITTEN 0xFF

/* One request: header and status in a page of their own, data in two that follow each other. */
struct request {
	uint32_t header, status, data;
	uint16_t head;
	bool done;
};

static struct device disk;
static struct request requests[REQUESTS];
static uint32_t sectors;

/* 24 to 34 for 2.6.x, 40 and up for 3.x, 60 and up for 4.x; those with PAE behind them. */
static uint32_t region(void)
{
	uint32_t major = GENERATION >> 16, minor = GENERATION >> 8 & 0xFF;

	return (major == 2 ? (GENERATION & 0xFF) : major * 20 - 20 + minor) + 100 * PAE;
}

static uint32_t pattern(uint32_t word)
{
	return word * MULTIPLIER ^ region() << 16;
}

static void submit(struct request *request, uint32_t type, uint32_t sector, const uint32_t *sizes,
		   uint32_t count)
{
	struct block_request *header = seen_at(request->header);
	struct piece pieces[6] = {{request->header, HEADER_BYTES, false}};
	uint32_t at = request->data;

	*header = (struct block_request){.type = type, .sector = sector};
	*(volatile uint8_t *)seen_at(request->status) = NOT_WRITTEN;
	for (uint32_t i = 0; i < count; i++) {
		pieces[1 + i] = (struct piece){at, sizes[i], type == BLOCK_IN || type == BLOCK_GET_ID};
		at += sizes[i];
	}
	pieces[1 + count] = (struct piece){request->status, 1, true};
	request->done = false;
	request->head = queue_put(&disk.queues[0], pieces, count + 2);
}

/* Takes one request back, whichever it is; its index. */
static uint32_t take(bool asleep, uint32_t *written)
{
	uint16_t head;

	if (asleep)
		queue_wait_asleep(&disk.queues[0], &head, written);
	else
		queue_wait_polling(&disk.queues[0], &head, written);
	for (uint32_t i = 0; i < REQUESTS; i++)
		if (requests[i].head == head && !requests[i].done) {
			requests[i].done = true;
			return i;
		}
	fail("the disk gave back chain %u, which it did not have", head);
}

static uint32_t status_of(uint32_t i)
{
	return *(volatile uint8_t *)seen_at(requests[i].status);
}

/* One alone: its status. */
static uint32_t single(uint32_t type, uint32_t sector, uint32_t bytes)
{
	uint32_t written;

	for (uint32_t i = 1; i < REQUESTS; i++)
		requests[i].done = true;
	submit(&requests[0], type, sector, &bytes, bytes ? 1 : 0);
	queue_kick(&disk, &disk.queues[0]);
	return status_of(take(true, &written));
}

/* All requests at once, with one kick; each must be answered once, and tell how much it wrote. */
static const char *everything(uint32_t type, const uint32_t *sizes, uint32_t count, bool asleep)
{
	uint32_t expected = 1 + (type == BLOCK_IN ? REQUEST_BYTES : 0);

	queue_interrupts(&disk.queues[0], asleep);
	for (uint32_t i = 0; i < REQUESTS; i++)
		submit(&requests[i], type, region() * REGION_SECTORS + i * (REGION_SECTORS / REQUESTS), sizes,
		       count);
	queue_kick(&disk, &disk.queues[0]);
	for (uint32_t n = 0; n < REQUESTS; n++) {
		uint32_t written, i = take(asleep, &written);

		if (status_of(i) != BLOCK_OK)
			return because("request %u of type %u ends with %u", i, type, status_of(i));
		if (written != expected)
			return because("request %u tells of %u bytes, not %u", i, written, expected);
	}
	queue_interrupts(&disk.queues[0], true);
	return NULL;
}

static const char *read_back(const uint32_t *sizes, uint32_t count, bool asleep)
{
	const char *problem;

	for (uint32_t i = 0; i < REQUESTS; i++)
		for (uint32_t word = 0; word < REQUEST_BYTES / 4; word++)
			((uint32_t *)seen_at(requests[i].data))[word] = 0;
	problem = everything(BLOCK_IN, sizes, count, asleep);
	for (uint32_t i = 0; i < REQUESTS && !problem; i++)
		for (uint32_t word = 0; word < REQUEST_BYTES / 4 && !problem; word++) {
			uint32_t is = ((uint32_t *)seen_at(requests[i].data))[word];

			if (is != pattern(i * (REQUEST_BYTES / 4) + word))
				problem = because("word %u of request %u reads 0x%x", word, i, is);
		}
	return problem;
}

static const char *open_disk(void)
{
	uint32_t high;

	if (!device_find(VIRTIO_BLOCK, 0, &disk))
		return "there is no disk";
	device_accept(&disk, WANTED);
	if (!device_config(&disk, 0, 4, &sectors) || !device_config(&disk, 4, 4, &high) || high)
		return "the disk does not tell its size";
	if (sectors < (region() + 1) * REGION_SECTORS)
		return because("the disk has %u sectors, %u are needed", sectors,
			       (region() + 1) * REGION_SECTORS);
	device_listen(&disk);
	if (HAS_PCI)
		device_go(&disk);
	return NULL;
}

static const char *write_and_read(void)
{
	static const uint32_t sizes[] = {BLOCK_SECTOR, PAGE_BYTES, REQUEST_BYTES - BLOCK_SECTOR - PAGE_BYTES};
	static const uint32_t others[] = {REQUEST_BYTES / 2, REQUEST_BYTES / 2};
	const char *problem;

	for (uint32_t i = 0; i < REQUESTS; i++)
		for (uint32_t word = 0; word < REQUEST_BYTES / 4; word++)
			((uint32_t *)seen_at(requests[i].data))[word] =
			    pattern(i * (REQUEST_BYTES / 4) + word);
	problem = everything(BLOCK_OUT | (disk.accepted & BIT(BLOCK_F_BARRIER) ? BLOCK_BARRIER : 0), sizes, 3,
			     true);
	if (problem)
		return problem;
	/* On lguest's page a driver works before it says that it is ready. */
	if (!HAS_PCI)
		device_go(&disk);
	if ((disk.accepted & BIT(BLOCK_F_FLUSH)) && single(BLOCK_FLUSH, 0, 0) != BLOCK_OK)
		return "a flush failed";
	return read_back(others, 2, false);
}

/* What it must refuse, and its name. */
static const char *odd_requests(void)
{
	uint32_t status = single(BLOCK_IN, sectors, BLOCK_SECTOR);

	if (status != BLOCK_IO_ERROR)
		return because("reading behind the end gives %u", status);
	status = KNOWS_SCSI ? single(BLOCK_SCSI, 0, 0) : BLOCK_UNSUPPORTED;
	if (status != BLOCK_UNSUPPORTED)
		return because("a SCSI command gives %u", status);
	if (!KNOWS_IDS)
		return NULL;
	status = single(BLOCK_GET_ID, 0, BLOCK_ID_BYTES);
	return status == BLOCK_OK ? NULL : because("asking for its name gives %u", status);
}

const char *check_block(void)
{
	static const uint32_t one[] = {REQUEST_BYTES};
	char name[BLOCK_ID_BYTES + 1] = "";
	const char *problem;

	for (uint32_t i = 0; i < REQUESTS; i++) {
		uint32_t first = page_alloc();

		requests[i] = (struct request){.header = first, .status = first + 64, .data = page_alloc()};
		page_alloc();
	}
	problem = open_disk();
	if (!problem)
		problem = write_and_read();
	if (!problem)
		problem = odd_requests();
	if (problem)
		return problem;
	for (uint32_t i = 0; KNOWS_IDS && i < BLOCK_ID_BYTES; i++)
		name[i] = ((char *)seen_at(requests[0].data))[i];
	if (!disk.interrupts || disk.strays)
		return because("the disk interrupted %u times, and %u times for nothing", disk.interrupts,
			       disk.strays);
	/* 2.6.24 marks what it has read and cannot find a device twice; 2.6.25 tells nobody of a reset. */
	if (GENERATION >= KERNEL(2, 6, 26)) {
		device_reset(&disk);
		problem = open_disk();
		if (!problem)
			problem = read_back(one, 1, true);
	}
	if (!problem)
		print("block: %u sectors, %u of them written and read%s%s.\n", sectors, REGION_SECTORS,
		      *name ? ", named " : "", name);
	return problem;
}
