/*
 * Every offset that two builds must agree about, asserted in both: this file is
 * compiled for i386 beside the Switchers and for x86-64 beside the shim.
 */
#include <stddef.h>

#include "block.h"
#include "conform.h"
#include "lguest.h"
#include "machine.h"
#include "virtio.h"

#define AT(type, field, offset) _Static_assert(offsetof(struct type, field) == (offset), #type "." #field)
#define SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type)

SIZE(kvmhost_mailbox, 96);
_Static_assert(CPU_MAILBOX_OFFSET + sizeof(struct kvmhost_mailbox) <= CPU_PDPT_OFFSET, "they do not overlap");
_Static_assert(CPU_PDPT_OFFSET % 32 == 0, "CR3 has 27 bits for the address of a PDPT");
AT(kvmhost_mailbox, entry_offset, 8);
AT(kvmhost_mailbox, cr2, 32);
AT(kvmhost_mailbox, where, 80);
AT(kvmhost_mailbox, attention, 84);

SIZE(kvmhost_frame_2623, FRAME_BYTES);
SIZE(kvmhost_frame_2624, FRAME_BYTES);
AT(kvmhost_frame_2623, eax, 28);
AT(kvmhost_frame_2623, trapnum, TRAPNUM_OFFSET - FRAME_OFFSET);
AT(kvmhost_frame_2624, trapnum, TRAPNUM_OFFSET - FRAME_OFFSET);
AT(kvmhost_frame_2624, gs, 28);
AT(kvmhost_frame_2624, eip, 52);
_Static_assert(FRAME_OFFSET + FRAME_BYTES == PAGE_BYTES, "the frame ends with its page");

SIZE(kvmhost_tss, 104);
AT(kvmhost_tss, esp0, 4);
AT(kvmhost_tss, ss0, 8);
AT(kvmhost_tss, esp1, 12);
AT(kvmhost_tss, io_bitmap_base, 102);

AT(kvmhost_state_8, host_idt_desc, 4);
AT(kvmhost_state_8, host_gdt_desc, 12);
AT(kvmhost_state_8, host_sp, 20);
AT(kvmhost_state_8, guest_idt_desc, 24);
AT(kvmhost_state_8, guest_gdt_desc, 32);
AT(kvmhost_state_8, guest_tss, 40);
AT(kvmhost_state_8, guest_idt, 144);
AT(kvmhost_state_8, guest_gdt, 2192);
SIZE(kvmhost_state_8, 2448);

AT(kvmhost_state_6, host_idt_desc, 4);
AT(kvmhost_state_6, host_gdt_desc, 10);
AT(kvmhost_state_6, host_sp, 16);
AT(kvmhost_state_6, guest_idt_desc, 20);
AT(kvmhost_state_6, guest_gdt_desc, 26);
AT(kvmhost_state_6, guest_tss, 32);
AT(kvmhost_state_6, guest_idt, 136);
AT(kvmhost_state_6, guest_gdt, 2184);
SIZE(kvmhost_state_6, 2440);

AT(kvmhost_guest, pgdir, 36);
AT(kvmhost_guest, current_root, 52);
AT(kvmhost_guest, pool_next, 96);
AT(kvmhost_guest, idt, 112);
AT(kvmhost_guest, gdt, 2160);
AT(kvmhost_guest, fxsave, GUEST_FXSAVE_OFFSET);
AT(kvmhost_guest, trap_notes, GUEST_FXSAVE_OFFSET + 516);
_Static_assert(GUEST_FXSAVE_OFFSET % 16 == 0, "FXSAVE needs 16-byte alignment");
_Static_assert(sizeof(struct kvmhost_guest) <= PAGE_BYTES, "a Guest's state is one page");

AT(lguest_data_2624, hcall_status, 20);
AT(lguest_data_2624, hcalls, 84);
AT(lguest_data_2624, reserve_mem, 1108);
AT(lguest_data_2624, pgdir, 1116);
AT(lguest_data_2624, noirq_start, 1120);
AT(lguest_data_2624, kernel_address, 1128);
AT(lguest_data_2624, syscall_vec, 1132);
SIZE(lguest_data_2624, 1136);
AT(lguest_data_2630, hcall_status, 20);
AT(lguest_data_2630, reserve_mem, 1108);
AT(lguest_data_2630, pgdir, 1116);
AT(lguest_data_2630, syscall_vec, 1132);
SIZE(lguest_data_2630, 1136);
AT(lguest_data_2631, irq_pending, 20);
AT(lguest_data_2631, hcalls, 88);
AT(lguest_data_2631, pgdir, 1376);
AT(lguest_data_2631, noirq_start, 1380);
AT(lguest_data_2631, kernel_address, 1388);
AT(lguest_data_2631, syscall_vec, 1392);
SIZE(lguest_data_2631, 1396);
AT(lguest_data_31, irq_pending, 20);
AT(lguest_data_31, hcall_status, 24);
AT(lguest_data_31, hcalls, 88);
AT(lguest_data_31, reserve_mem, 1368);
AT(lguest_data_31, noirq_start, 1376);
AT(lguest_data_31, kernel_address, 1384);
AT(lguest_data_31, syscall_vec, 1388);
SIZE(lguest_data_31, 1392);
AT(lguest_data_41, noirq_iret, 1376);
AT(lguest_data_41, kernel_address, 1380);
SIZE(lguest_data_41, 1388);

AT(virtio_descriptor, length, 8);
AT(virtio_descriptor, next, 14);
SIZE(virtio_descriptor, 16);
SIZE(virtio_ring, VIRTIO_RING_BYTES);
SIZE(virtio_used_entry, 8);
SIZE(device_header, 5);
SIZE(device_queue, 8);
AT(virtio_common, queues, 18);
AT(virtio_common, queue_select, 22);
AT(virtio_common, queue_desc_low, 32);
SIZE(virtio_common, PCI_BAR_NOTIFY);

AT(block_request, sector, 8);
SIZE(block_request, 16);
AT(block_config, segments, 12);
AT(block_config, cylinders, BLOCK_PAGE_CONFIG_BYTES);
AT(block_config, block_bytes, 20);
AT(block_config, write_back, 32);
AT(block_config, queues, BLOCK_PCI_CONFIG_BYTES - 2);

/* The batch of conformance cases. */
SIZE(conform_header, 48);
SIZE(conform_patch, 12);
SIZE(conform_watch, 8);
SIZE(conform_msr, 20);
SIZE(conform_table, 8);
AT(conform_case, gdt, 36);
AT(conform_case, cr0, 60);
AT(conform_case, gs, 100);
AT(conform_case, eip, 148);
SIZE(conform_case, 168);
AT(conform_saved, stack, 136);
SIZE(conform_saved, 168);
AT(conform_result, saved, 24);
SIZE(conform_result, 192);
_Static_assert(sizeof(struct conform_saved) <= CONFORM_LAUNCH, "the report ends before the way in begins");
_Static_assert(CONFORM_LAUNCH + sizeof(struct conform_case) - offsetof(struct conform_case, gs) <=
		   CONFORM_LAUNCH_CASE,
	       "the stack does not reach the copy");
_Static_assert(CONFORM_LAUNCH_CASE + sizeof(struct conform_case) <= CONFORM_INNER, "the copy ends");
_Static_assert(CONFORM_SAVE == CONFORM_COLLECT + CONFORM_PAGE, "two pages of one arena");
_Static_assert(CONFORM_SHADOW + CONFORM_ARENA_PAGES * CONFORM_PAGE <= CONFORM_ARENA, "they do not overlap");
