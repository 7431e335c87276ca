/*
 * How a kernel is heard that has no driver yet.
 *
 * Up to 3.19 it tells the Host the address of some text, at most 16 characters.  From 4.0
 * on it writes each character to the emergency register of the console, which is device
 * 1 of bus 0; and as nothing maps the registers of a device so early, it does so through
 * a window in the device's configuration space, by eight port accesses.
 */
#include "early_console.h"

#include "guest.h"
#include "pci.h"

#if HAS_NOTIFY

void early_console(const char *text)
{
	hypercall(LHCALL_NOTIFY, physical(text), 0, 0, 0);
}

#else

#define CONSOLE_SLOT 1 /* always: nobody has looked for it yet */
#define EMERGENCY_OFFSET 8
#define EMERGENCY_END 12

/* The window and the register it is to show; no window where nobody listens. */
static struct {
	bool sought;
	uint32_t window, offset;
} console;

static void seek(void)
{
	uint32_t device;

	console.sought = true;
	if (pci_read32(CONSOLE_SLOT, PCI_ID) != PCI_ID_VIRTIO(VIRTIO_CONSOLE))
		return;
	device = pci_capability(CONSOLE_SLOT, PCI_CAP_DEVICE);
	if (!device || pci_read8(CONSOLE_SLOT, device + PCI_CAP_BAR) != 0)
		return;
	if (pci_read32(CONSOLE_SLOT, device + PCI_CAP_LENGTH) < EMERGENCY_END)
		return;
	console.offset = pci_read32(CONSOLE_SLOT, device + PCI_CAP_OFFSET) + EMERGENCY_OFFSET;
	console.window = pci_capability(CONSOLE_SLOT, PCI_CAP_ACCESS);
}

void early_console(const char *text)
{
	if (!console.sought)
		seek();
	if (!console.window)
		return;
	for (; *text; text++) {
		pci_write8(CONSOLE_SLOT, console.window + PCI_ACCESS_BAR, 0);
		pci_write32(CONSOLE_SLOT, console.window + PCI_ACCESS_LENGTH, 4);
		pci_write32(CONSOLE_SLOT, console.window + PCI_ACCESS_OFFSET, console.offset);
		pci_write32(CONSOLE_SLOT, console.window + PCI_ACCESS_DATA, (uint32_t)*text);
	}
}

#endif
