/*
 * PCI, as a kernel on such a machine finds it: an address goes to one port, data through
 * another, and every device tells its parts in a chain of capabilities.
 */
#include "pci.h"

#include "ports.h"

#define SLOT_SHIFT 11

static uint16_t data_port(uint32_t slot, uint32_t offset)
{
	out32(PCI_ADDRESS, PCI_ENABLE | slot << SLOT_SHIFT | (offset & ~3u));
	return (uint16_t)(PCI_DATA + (offset & 3));
}

uint32_t pci_read32(uint32_t slot, uint32_t offset)
{
	return in32(data_port(slot, offset));
}

uint8_t pci_read8(uint32_t slot, uint32_t offset)
{
	return in8(data_port(slot, offset));
}

void pci_write32(uint32_t slot, uint32_t offset, uint32_t value)
{
	out32(data_port(slot, offset), value);
}

void pci_write8(uint32_t slot, uint32_t offset, uint8_t value)
{
	out8(data_port(slot, offset), value);
}

uint32_t pci_virtio_capability(uint32_t slot, uint32_t type)
{
	uint32_t at = pci_read8(slot, PCI_CAPABILITIES);

	/* A device that leads in a circle is left after as many as fit into its space. */
	for (unsigned int i = 0; at && i < 48; i++) {
		if (pci_read8(slot, at) == PCI_VENDOR_CAPABILITY &&
		    pci_read8(slot, at + VIRTIO_CAP_TYPE) == type)
			return at;
		at = pci_read8(slot, at + 1);
	}
	return 0;
}
