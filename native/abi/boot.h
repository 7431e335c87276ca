/*
 * What a Guest finds in memory before its first instruction: Linux's boot_params
 * at physical 0, as far as a Guest of lguest looks at it, and the command line in
 * the page behind.  Offsets are those of the kernel's "Linux/x86 Boot Protocol"
 * and of its struct boot_params ("zero page").
 */
#ifndef KVMHOST_ABI_BOOT_H
#define KVMHOST_ABI_BOOT_H

#define BOOT_PARAMS_BYTES 0x1000
#define BOOT_E820_ENTRIES 0x1E8 /* u8 */
#define BOOT_VERSION 0x206 /* u16 */
#define BOOT_TYPE_OF_LOADER 0x210 /* u8 */
#define BOOT_LOADFLAGS 0x211 /* u8 */
#define BOOT_RAMDISK_IMAGE 0x218 /* u32 */
#define BOOT_RAMDISK_SIZE 0x21C /* u32 */
#define BOOT_CMD_LINE_PTR 0x228 /* u32 */
#define BOOT_KERNEL_ALIGNMENT 0x230 /* u32 */
#define BOOT_HARDWARE_SUBARCH 0x23C /* u32 */
#define BOOT_E820_TABLE 0x2D0 /* {u64 address, u64 size, u32 type} */
#define BOOT_E820_SIZE 0x2D8 /* the u64 size of the first entry */

#define BOOT_PROTOCOL_207 0x0207
#define BOOT_LOADER_UNKNOWN 0xFF
#define BOOT_LOADED_HIGH 0x01
#define BOOT_KEEP_SEGMENTS 0x40
#define BOOT_ALIGNMENT 0x1000000
#define BOOT_SUBARCH_LGUEST 1
#define BOOT_E820_RAM 1

#define BOOT_COMMAND_LINE 0x1000 /* where the command line lies */
#define BOOT_COMMAND_LINE_BYTES 0x800 /* COMMAND_LINE_SIZE of i386, with its NUL */
#define BOOT_LOW_END 0x1800 /* the first byte that an image may occupy */

/* In the header of a bzImage, beside those above. */
#define BZIMAGE_SETUP_SECTS 0x1F1 /* u8, in sectors of 512 bytes; 0 means 4 */
#define BZIMAGE_MAGIC 0x202 /* "HdrS" */
#define BZIMAGE_KERNEL_VERSION 0x20E /* u16, of a text, from 0x200; 0 means none */
#define BZIMAGE_CODE32_START 0x214 /* u32 */
#define BZIMAGE_SYSSIZE 0x1F4 /* u32: 16-byte units behind the real-mode part */
#define BZIMAGE_RELOCATABLE 0x234 /* u8 */
#define BZIMAGE_XLOADFLAGS 0x236 /* u16, from protocol 2.12; bit 0: has a 64-bit entry */
#define BZIMAGE_PAYLOAD_OFFSET 0x248 /* u32, behind the real-mode part; from protocol 2.08 */
#define BZIMAGE_PAYLOAD_LENGTH 0x24C /* u32 */
#define BZIMAGE_PREF_ADDRESS 0x258 /* u64: where it runs, unless it is relocatable; from 2.10 */
#define BZIMAGE_INIT_SIZE 0x260 /* u32: bytes it needs from there on; from 2.10 */
#define BZIMAGE_LOAD_ADDRESS 0x100000

/* Notes in our own Guests' images, owner "kvmhost". */
#define NOTE_COPIES 1 /* u32: how many Guests to make of this image */
#define NOTE_ABOUT 2 /* text: what the Guest shows */
#define NOTE_ABI 3 /* text: the release whose ABI it speaks, and "pae" if so are its tables: "2.6.31 pae" */

#endif
