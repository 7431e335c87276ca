/* Configuration space of PCI bus 0 by its two ports; "PCI Local Bus Specification", 3.2.2.3. */
#ifndef PCI_H
#define PCI_H

#include <stdint.h>

#define PCI_ADDRESS 0xCF8
#define PCI_DATA 0xCFC
#define PCI_ENABLE 0x80000000

#define PCI_ID 0x00
#define PCI_CAPABILITIES 0x34
#define PCI_VENDOR_CAPABILITY 0x09
/* Vendor 0x1AF4, and 0x1040 added to the virtio number of a console, 3. */
#define PCI_ID_CONSOLE 0x10431AF4

/* What virtio puts into a vendor capability ("Virtio Structure PCI Capabilities"). */
#define VIRTIO_CAP_TYPE 3
#define VIRTIO_CAP_BAR 4
#define VIRTIO_CAP_OFFSET 8
#define VIRTIO_CAP_LENGTH 12
#define VIRTIO_CAP_DATA 16
#define VIRTIO_CAP_COMMON 1
#define VIRTIO_CAP_NOTIFY 2
#define VIRTIO_CAP_ISR 3
#define VIRTIO_CAP_DEVICE 4
#define VIRTIO_CAP_WINDOW 5

uint32_t pci_read32(uint32_t slot, uint32_t offset);
uint8_t pci_read8(uint32_t slot, uint32_t offset);
void pci_write32(uint32_t slot, uint32_t offset, uint32_t value);
void pci_write8(uint32_t slot, uint32_t offset, uint8_t value);
/* Where the device's virtio capability of TYPE lies in its configuration space, or 0. */
uint32_t pci_virtio_capability(uint32_t slot, uint32_t type);

#endif
