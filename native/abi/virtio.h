/*
 * What a driver in a Guest and a device of the Launcher's must agree about: the
 * rings of virtio, lguest's descriptor page (2.6.24 to 3.19), and virtio 1.0 on an
 * emulated PCI bus (4.0 on).  Read by our own Guests and by Python through cffi.
 * Numbers of the rings and of the PCI transport are those of OASIS "Virtual I/O
 * Device (VIRTIO) Version 1.0"; the page is lguest's own.
 */
#ifndef KVMHOST_ABI_VIRTIO_H
#define KVMHOST_ABI_VIRTIO_H

#include <stdint.h>

#define VIRTIO_NET 1
#define VIRTIO_BLOCK 2
#define VIRTIO_CONSOLE 3
#define VIRTIO_RNG 4

/* ---- rings --------------------------------------------------------------- */

struct virtio_descriptor {
	uint64_t address; /* Guest-physical */
	uint32_t length;
	uint16_t flags; /* VIRTIO_NEXT, ... */
	uint16_t next;
};

#define VIRTIO_NEXT 1
#define VIRTIO_WRITE 2 /* the device writes this one, and reads all others */
#define VIRTIO_INDIRECT 4 /* it holds a table of descriptors */

/* Both rings begin alike; their indices run freely modulo 65536. */
struct virtio_ring {
	uint16_t flags;
	uint16_t index;
};

#define VIRTIO_RING_BYTES 4 /* of struct virtio_ring, in front of the entries */
#define VIRTIO_NO_INTERRUPT 1 /* flags of the available ring */
#define VIRTIO_NO_NOTIFY 1 /* flags of the used ring */

/* The available ring goes on with one uint16_t for each entry, the used ring with one of these. */
struct virtio_used_entry {
	uint32_t head;
	uint32_t length;
};

#define VIRTIO_ACKNOWLEDGE 1
#define VIRTIO_DRIVER 2
#define VIRTIO_DRIVER_OK 4
#define VIRTIO_FEATURES_OK 8 /* PCI only */
#define VIRTIO_FAILED 0x80

/* Feature bits that belong to the rings, whatever the device. */
#define VIRTIO_F_INDIRECT 28
#define VIRTIO_F_VERSION_1 32

/* ---- the descriptor page (abi 10.2) --------------------------------------- */

#define DEVICE_PAGES 256 /* above RAM: the page itself, and the rings behind it */
#define DEVICE_RING_ALIGN 4096 /* of the used ring */

/* 2.6.25 and later; 2.6.24 has {type, config bytes, status} and a list of {type, length, bytes}. */
struct device_header {
	uint8_t type;
	uint8_t queues;
	uint8_t feature_bytes;
	uint8_t config_bytes;
	uint8_t status;
};

/* One for each queue, behind the header and as unaligned as it comes. */
struct device_queue {
	uint16_t entries;
	uint16_t irq;
	uint32_t frame; /* of the ring: Guest-physical address / 4096 */
};

#define TLV_HEADER_BYTES 3
#define TLV_QUEUE 2
#define TLV_BLOCK_CAPACITY 0x41 /* u64, in sectors */
#define TLV_BLOCK_SEGMENTS 0x43 /* u32 */
#define TLV_NET_MAC 0x41
#define TLV_CONSUMED 0x80 /* the driver sets it in the type */

/* ---- virtio 1.0 over PCI (abi 10.3) ---------------------------------------- */

#define PCI_CONFIG_ADDRESS 0xCF8
#define PCI_CONFIG_DATA 0xCFC
#define PCI_CONFIG_ENABLE 0x80000000
#define PCI_CONFIG_BYTES 0x98

#define PCI_VENDOR_VIRTIO 0x1AF4
#define PCI_DEVICE_VIRTIO 0x1040 /* plus the virtio id */

#define PCI_COMMAND 0x04
#define PCI_STATUS 0x06
#define PCI_REVISION 0x08
#define PCI_CLASS 0x0A
#define PCI_CACHE_LINE 0x0C
#define PCI_BAR0 0x10
#define PCI_SUBSYSTEM 0x2E
#define PCI_CAPABILITIES 0x34
#define PCI_INTERRUPT_LINE 0x3C
#define PCI_INTERRUPT_PIN 0x3D
#define PCI_STATUS_CAPABILITIES 0x10

/* Where each capability lies in config space, and its type. */
#define PCI_CAP_VENDOR 9
#define PCI_CAP_COMMON_AT 0x40
#define PCI_CAP_NOTIFY_AT 0x50
#define PCI_CAP_ISR_AT 0x64
#define PCI_CAP_DEVICE_AT 0x74
#define PCI_CAP_ACCESS_AT 0x84
#define PCI_CAP_COMMON 1
#define PCI_CAP_NOTIFY 2
#define PCI_CAP_ISR 3
#define PCI_CAP_DEVICE 4
#define PCI_CAP_ACCESS 5

/* Inside the access capability, whose window reaches into BAR 0 by port I/O. */
#define PCI_ACCESS_BAR 4
#define PCI_ACCESS_OFFSET 8
#define PCI_ACCESS_LENGTH 12
#define PCI_ACCESS_DATA 16
#define PCI_ACCESS_BYTES 20

/* Where each part lies in BAR 0. */
#define PCI_BAR_COMMON 0
#define PCI_BAR_NOTIFY 56
#define PCI_BAR_ISR 58
#define PCI_BAR_DEVICE 60

#define VIRTIO_ISR_QUEUE 1
#define VIRTIO_ISR_CONFIG 2

struct virtio_common {
	uint32_t device_select;
	uint32_t device_features;
	uint32_t driver_select;
	uint32_t driver_features;
	uint16_t msix_config;
	uint16_t queues;
	uint8_t status;
	uint8_t generation;
	/* From here on: of the queue that is selected. */
	uint16_t queue_select;
	uint16_t queue_size;
	uint16_t queue_msix;
	uint16_t queue_enable;
	uint16_t queue_notify;
	uint32_t queue_desc_low, queue_desc_high;
	uint32_t queue_avail_low, queue_avail_high;
	uint32_t queue_used_low, queue_used_high;
};

#endif
