/*
 * PCI, as a kernel on such a machine finds it: an address goes to one port, data through
 * another, and every device tells its parts in a chain of capabilities.
 */
#include "pci.h"

#include "ports.h"

#define SLOT_SHIFT 11
#define MOST_CAPABILITIES 48

/*
 * The two low bits of the address say nothing: the port beside it says which byte.  Some of
 * Linux's accessors leave them in all the same, and so do these.
 */
static uint16_t data_port(uint32_t slot, uint32_t offset)
{
	out32(PCI_CONFIG_ADDRESS, PCI_CONFIG_ENABLE | slot << SLOT_SHIFT | offset);
	return (uint16_t)(PCI_CONFIG_DATA + (offset & 3));
}

uint32_t pci_read32(uint32_t slot, uint32_t offset)
{
	return in32(data_port(slot, offset));
}

uint16_t pci_read16(uint32_t slot, uint32_t offset)
{
	return in16(data_port(slot, offset));
}

uint8_t pci_read8(uint32_t slot, uint32_t offset)
{
	return in8(data_port(slot, offset));
}

void pci_write32(uint32_t slot, uint32_t offset, uint32_t value)
{
	out32(data_port(slot, offset), value);
}

void pci_write16(uint32_t slot, uint32_t offset, uint16_t value)
{
	out16(data_port(slot, offset), value);
}

void pci_write8(uint32_t slot, uint32_t offset, uint8_t value)
{
	out8(data_port(slot, offset), value);
}

uint32_t pci_capability(uint32_t slot, uint32_t type)
{
	uint32_t at = pci_read8(slot, PCI_CAPABILITIES);

	/* A device that leads in a circle is left after as many as fit into its space. */
	for (unsigned int i = 0; at && i < MOST_CAPABILITIES; i++) {
		if (pci_read8(slot, at) == PCI_CAP_VENDOR && pci_read8(slot, at + PCI_CAP_TYPE) == type)
			return at;
		at = pci_read8(slot, at + PCI_CAP_NEXT);
	}
	return 0;
}
