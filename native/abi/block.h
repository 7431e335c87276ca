/*
 * What a block driver in a Guest and the Launcher's disks say to each other: the
 * request in front of the data, the byte behind it, and what the device offers.
 * Numbers are those of OASIS "Virtual I/O Device (VIRTIO) Version 1.0", section
 * "Block Device"; barriers and the longer header are older than that text.
 */
#ifndef KVMHOST_ABI_BLOCK_H
#define KVMHOST_ABI_BLOCK_H

#include <stdint.h>

#define BLOCK_SECTOR 512 /* the unit of every sector number, whatever the disk's own is */

/* 2.6.24 has one more uint64_t behind it, which means nothing. */
struct block_request {
	uint32_t type; /* BLOCK_IN, ... */
	uint32_t priority;
	uint64_t sector;
};

#define BLOCK_IN 0
#define BLOCK_OUT 1
#define BLOCK_SCSI 2 /* this bit: some SCSI command or other */
#define BLOCK_FLUSH 4
#define BLOCK_FLUSH_OUT 5 /* the same */
#define BLOCK_GET_ID 8
#define BLOCK_BARRIER 0x80000000 /* added to another type: what came before is on the disk first */

#define BLOCK_ID_BYTES 20 /* NUL-padded, and without a NUL if it fills them */

/* The last byte of a request, which the device writes. */
#define BLOCK_OK 0
#define BLOCK_IO_ERROR 1
#define BLOCK_UNSUPPORTED 2

/* Feature bits. */
#define BLOCK_F_BARRIER 0
#define BLOCK_F_SEG_MAX 2
#define BLOCK_F_READ_ONLY 5
#define BLOCK_F_FLUSH 9

/* The device's configuration: its first 16 bytes on the descriptor page, all of it on PCI. */
struct block_config {
	uint64_t sectors;
	uint32_t size_max;
	uint32_t segments; /* of a request, header and status not counted */
	uint16_t cylinders;
	uint8_t heads;
	uint8_t sectors_per_track;
	uint32_t block_bytes;
	uint8_t topology[8];
	uint8_t write_back;
	uint8_t unused;
	uint16_t queues;
};

#define BLOCK_PAGE_CONFIG_BYTES 16
#define BLOCK_PCI_CONFIG_BYTES 36

#endif
