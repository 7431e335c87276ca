/*
 * The small world a probe Guest lives in: its memory, its descriptors, and the
 * ports through which it talks.  Read by the assembler for the Guests themselves
 * and by constants.c for the Python that builds the world around them.
 */
#ifndef KVMHOST_DOCTOR_PROBE_H
#define KVMHOST_DOCTOR_PROBE_H

/* Guest-physical memory; linear equals physical but for PROBE_ALIAS. */
#define PROBE_MEMORY 0x20000
#define PROBE_GDT 0x1000
#define PROBE_IDT 0x2000
#define PROBE_TSS 0x2800
#define PROBE_TWO_LEVEL_PD 0x3000
#define PROBE_TWO_LEVEL_PT 0x4000
#define PROBE_PAE_PDPT 0x5000
#define PROBE_PAE_PD 0x6000
#define PROBE_PAE_PT 0x7000
#define PROBE_STACK_TOP 0x8FC0 /* ring 0; the words above it stay readable */
#define PROBE_RING1_TOP 0x9FC0 /* ring 1 */
#define PROBE_READ_ONLY 0xA000 /* mapped without the write bit */
#define PROBE_NO_EXECUTE 0xB000 /* mapped with XD set, when EFER.NXE is */
#define PROBE_FRAME_ONE 0xC000 /* PROBE_ALIAS leads here ... */
#define PROBE_FRAME_TWO 0xD000 /* ... or here, after a Guest changed its mind */
#define PROBE_TEXT 0x10000
#define PROBE_TEXT_LIMIT 0x2000

/* A linear page with another physical address: only translation can read it right. */
#define PROBE_ALIAS 0x30000
#define PROBE_VALUE_ONE 0x1A57C0DE
#define PROBE_VALUE_TWO 0x2B68D1EF

/* A data segment of 4 KiB, beside lguest's own descriptors in the GDT. */
#define PROBE_SHORT_SELECTOR 0xA0
#define PROBE_SHORT_BYTES 0x1000

/* Vectors 0 to 31 have stubs of this many bytes each. */
#define PROBE_STUB_BYTES 16
#define PROBE_STUBS 32

/* What a Guest says: a dword on each of these ports. */
#define PROBE_PORT_VALUE 0xE8 /* here is a value */
#define PROBE_PORT_FAULT 0xE9 /* one word of the frame of a trap, eight of them in all */
#define PROBE_PORT_ASK 0xEA /* now send the event */
#define PROBE_PORT_DONE 0xEB /* the end */

#define PROBE_REACHED 0x0000D09E

#endif
