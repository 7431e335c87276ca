/* Configuration space of PCI bus 0 by its two ports; "PCI Local Bus Specification", 3.2.2.3. */
#ifndef PCI_H
#define PCI_H

#include <stdint.h>

#include "virtio.h"

#define PCI_ID 0x00
#define PCI_SLOTS 32
#define PCI_ID_VIRTIO(id) ((uint32_t)(PCI_DEVICE_VIRTIO + (id)) << 16 | PCI_VENDOR_VIRTIO)

/* What virtio puts into a vendor capability ("Virtio Structure PCI Capabilities"). */
#define PCI_CAP_NEXT 1
#define PCI_CAP_TYPE 3
#define PCI_CAP_BAR 4
#define PCI_CAP_OFFSET 8
#define PCI_CAP_LENGTH 12

uint32_t pci_read32(uint32_t slot, uint32_t offset);
uint16_t pci_read16(uint32_t slot, uint32_t offset);
uint8_t pci_read8(uint32_t slot, uint32_t offset);
void pci_write32(uint32_t slot, uint32_t offset, uint32_t value);
void pci_write16(uint32_t slot, uint32_t offset, uint16_t value);
void pci_write8(uint32_t slot, uint32_t offset, uint8_t value);
/* Where the device's virtio capability of TYPE lies in its configuration space, or 0. */
uint32_t pci_capability(uint32_t slot, uint32_t type);

#endif
