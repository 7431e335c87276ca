/*
 * What the doctor must know about <linux/kvm.h> and native/abi, told by the
 * compiler.  The doctor reads no C and has no compiled part, yet no number is
 * typed twice: this file is compiled to assembler, never linked, and each line
 * that starts with -> becomes a constant of kvmhost/doctor/_constants.py.
 */
#include <linux/kvm.h>
#include <stddef.h>

#include "machine.h"
#include "probe.h"

#define TELL(name, value) __asm__ volatile("\n->" name " %0" : : "i"((long)(value)))
#define SAME(name) TELL(#name, name)
#define SIZE(name, type) TELL(#name "_SIZE", sizeof(struct type))
#define FIELD(name, type, field) TELL(#name, offsetof(struct type, field))

static void requests(void)
{
	SAME(KVM_API_VERSION);
	SAME(KVM_GET_API_VERSION);
	SAME(KVM_CREATE_VM);
	SAME(KVM_CHECK_EXTENSION);
	SAME(KVM_GET_VCPU_MMAP_SIZE);
	SAME(KVM_GET_SUPPORTED_CPUID);
	SAME(KVM_SET_TSS_ADDR);
	SAME(KVM_SET_IDENTITY_MAP_ADDR);
	SAME(KVM_CREATE_IRQCHIP);
	SAME(KVM_SET_USER_MEMORY_REGION);
	SAME(KVM_SET_GSI_ROUTING);
	SAME(KVM_IRQFD);
	SAME(KVM_ENABLE_CAP);
	SAME(KVM_CREATE_VCPU);
	SAME(KVM_SET_CPUID2);
	SAME(KVM_GET_SREGS);
	SAME(KVM_SET_SREGS);
	SAME(KVM_GET_REGS);
	SAME(KVM_SET_REGS);
	SAME(KVM_SET_MSRS);
	SAME(KVM_NMI);
	SAME(KVM_RUN);
}

static void capabilities(void)
{
	SAME(KVM_CAP_IRQCHIP);
	SAME(KVM_CAP_USER_MEMORY);
	SAME(KVM_CAP_SET_TSS_ADDR);
	SAME(KVM_CAP_SET_IDENTITY_MAP_ADDR);
	SAME(KVM_CAP_EXT_CPUID);
	SAME(KVM_CAP_NR_VCPUS);
	SAME(KVM_CAP_NR_MEMSLOTS);
	SAME(KVM_CAP_USER_NMI);
	SAME(KVM_CAP_IRQ_ROUTING);
	SAME(KVM_CAP_IRQFD);
	SAME(KVM_CAP_SIGNAL_MSI);
	SAME(KVM_CAP_IMMEDIATE_EXIT);
	SAME(KVM_CAP_READONLY_MEM);
	SAME(KVM_CAP_VCPU_EVENTS);
	SAME(KVM_CAP_XSAVE);
	SAME(KVM_CAP_SYNC_REGS);
	SAME(KVM_CAP_SET_GUEST_DEBUG2);
	SAME(KVM_CAP_EXIT_ON_EMULATION_FAILURE);
	SAME(KVM_CAP_BINARY_STATS_FD);
}

static void exits(void)
{
	SAME(KVM_EXIT_IO);
	SAME(KVM_EXIT_HLT);
	SAME(KVM_EXIT_MMIO);
	SAME(KVM_EXIT_SHUTDOWN);
	SAME(KVM_EXIT_FAIL_ENTRY);
	SAME(KVM_EXIT_INTR);
	SAME(KVM_EXIT_INTERNAL_ERROR);
	SAME(KVM_INTERNAL_ERROR_EMULATION);
	SAME(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
	FIELD(RUN_EXIT_REASON, kvm_run, exit_reason);
	FIELD(RUN_IO_PORT, kvm_run, io.port);
	FIELD(RUN_IO_DATA_OFFSET, kvm_run, io.data_offset);
	FIELD(RUN_MMIO_ADDRESS, kvm_run, mmio.phys_addr);
	FIELD(RUN_FAIL_ENTRY_REASON, kvm_run, fail_entry.hardware_entry_failure_reason);
	FIELD(RUN_SUBERROR, kvm_run, internal.suberror);
	FIELD(RUN_EMULATION_NDATA, kvm_run, emulation_failure.ndata);
	FIELD(RUN_EMULATION_FLAGS, kvm_run, emulation_failure.flags);
	FIELD(RUN_EMULATION_INSN_SIZE, kvm_run, emulation_failure.insn_size);
	FIELD(RUN_EMULATION_INSN_BYTES, kvm_run, emulation_failure.insn_bytes);
}

static void registers(void)
{
	SIZE(REGS, kvm_regs);
	FIELD(REGS_EAX, kvm_regs, rax);
	FIELD(REGS_EBX, kvm_regs, rbx);
	FIELD(REGS_ECX, kvm_regs, rcx);
	FIELD(REGS_ESI, kvm_regs, rsi);
	FIELD(REGS_ESP, kvm_regs, rsp);
	FIELD(REGS_EIP, kvm_regs, rip);
	FIELD(REGS_EFLAGS, kvm_regs, rflags);
	SIZE(SREGS, kvm_sregs);
	FIELD(SREGS_CS, kvm_sregs, cs);
	FIELD(SREGS_DS, kvm_sregs, ds);
	FIELD(SREGS_ES, kvm_sregs, es);
	FIELD(SREGS_FS, kvm_sregs, fs);
	FIELD(SREGS_GS, kvm_sregs, gs);
	FIELD(SREGS_SS, kvm_sregs, ss);
	FIELD(SREGS_GDT, kvm_sregs, gdt);
	FIELD(SREGS_IDT, kvm_sregs, idt);
	FIELD(SREGS_CR0, kvm_sregs, cr0);
	FIELD(SREGS_CR3, kvm_sregs, cr3);
	FIELD(SREGS_CR4, kvm_sregs, cr4);
	FIELD(SREGS_EFER, kvm_sregs, efer);
	FIELD(DTABLE_BASE, kvm_dtable, base);
	FIELD(DTABLE_LIMIT, kvm_dtable, limit);
	SIZE(SEGMENT, kvm_segment);
	FIELD(SEGMENT_BASE, kvm_segment, base);
	FIELD(SEGMENT_LIMIT, kvm_segment, limit);
	FIELD(SEGMENT_SELECTOR, kvm_segment, selector);
	FIELD(SEGMENT_TYPE, kvm_segment, type);
	FIELD(SEGMENT_PRESENT, kvm_segment, present);
	FIELD(SEGMENT_DPL, kvm_segment, dpl);
	FIELD(SEGMENT_DB, kvm_segment, db);
	FIELD(SEGMENT_S, kvm_segment, s);
	FIELD(SEGMENT_L, kvm_segment, l);
	FIELD(SEGMENT_G, kvm_segment, g);
	FIELD(SEGMENT_UNUSABLE, kvm_segment, unusable);
}

static void tables(void)
{
	SIZE(REGION, kvm_userspace_memory_region);
	FIELD(REGION_GPA, kvm_userspace_memory_region, guest_phys_addr);
	FIELD(REGION_BYTES, kvm_userspace_memory_region, memory_size);
	FIELD(REGION_HOST, kvm_userspace_memory_region, userspace_addr);
	SIZE(CPUID, kvm_cpuid2);
	SIZE(CPUID_ENTRY, kvm_cpuid_entry2);
	FIELD(CPUID_COUNT, kvm_cpuid2, nent);
	FIELD(CPUID_FUNCTION, kvm_cpuid_entry2, function);
	FIELD(CPUID_INDEX, kvm_cpuid_entry2, index);
	FIELD(CPUID_EAX, kvm_cpuid_entry2, eax);
	FIELD(CPUID_EBX, kvm_cpuid_entry2, ebx);
	FIELD(CPUID_ECX, kvm_cpuid_entry2, ecx);
	FIELD(CPUID_EDX, kvm_cpuid_entry2, edx);
	SIZE(MSRS, kvm_msrs);
	SIZE(MSR_ENTRY, kvm_msr_entry);
	FIELD(MSRS_COUNT, kvm_msrs, nmsrs);
	FIELD(MSR_INDEX, kvm_msr_entry, index);
	FIELD(MSR_DATA, kvm_msr_entry, data);
	SIZE(ROUTING, kvm_irq_routing);
	SIZE(ROUTE, kvm_irq_routing_entry);
	FIELD(ROUTING_COUNT, kvm_irq_routing, nr);
	FIELD(ROUTE_GSI, kvm_irq_routing_entry, gsi);
	FIELD(ROUTE_TYPE, kvm_irq_routing_entry, type);
	FIELD(ROUTE_MSI_ADDRESS, kvm_irq_routing_entry, u.msi.address_lo);
	FIELD(ROUTE_MSI_DATA, kvm_irq_routing_entry, u.msi.data);
	SAME(KVM_IRQ_ROUTING_MSI);
	SIZE(IRQFD, kvm_irqfd);
	FIELD(IRQFD_FD, kvm_irqfd, fd);
	FIELD(IRQFD_GSI, kvm_irqfd, gsi);
	SIZE(ENABLE_CAP, kvm_enable_cap);
	FIELD(ENABLE_CAP_CAP, kvm_enable_cap, cap);
	FIELD(ENABLE_CAP_ARG, kvm_enable_cap, args[0]);
}

static void machine(void)
{
	SAME(KVM_IDENTITY_MAP_BASE);
	SAME(KVM_TSS_BASE);
	SAME(LGUEST_CS);
	SAME(LGUEST_DS);
	SAME(GUEST_CS);
	SAME(GUEST_DS);
	SAME(TSS_SELECTOR);
	SAME(GDT_ENTRIES);
	SAME(IDT_ENTRIES);
	SAME(HYPERCALL_VECTOR);
	SAME(KICK_VECTOR);
	SAME(SPURIOUS_VECTOR);
	SIZE(TSS, kvmhost_tss);
	FIELD(TSS_ESP0, kvmhost_tss, esp0);
	FIELD(TSS_SS0, kvmhost_tss, ss0);
	FIELD(TSS_IO_BITMAP, kvmhost_tss, io_bitmap_base);
}

static void world(void)
{
	SAME(PROBE_MEMORY);
	SAME(PROBE_GDT);
	SAME(PROBE_IDT);
	SAME(PROBE_TSS);
	SAME(PROBE_TWO_LEVEL_PD);
	SAME(PROBE_TWO_LEVEL_PT);
	SAME(PROBE_PAE_PDPT);
	SAME(PROBE_PAE_PD);
	SAME(PROBE_PAE_PT);
	SAME(PROBE_STACK_TOP);
	SAME(PROBE_RING1_TOP);
	SAME(PROBE_READ_ONLY);
	SAME(PROBE_NO_EXECUTE);
	SAME(PROBE_FRAME_ONE);
	SAME(PROBE_FRAME_TWO);
	SAME(PROBE_TEXT);
	SAME(PROBE_TEXT_LIMIT);
	SAME(PROBE_ALIAS);
	SAME(PROBE_VALUE_ONE);
	SAME(PROBE_VALUE_TWO);
	SAME(PROBE_SHORT_SELECTOR);
	SAME(PROBE_SHORT_BYTES);
	SAME(PROBE_STUB_BYTES);
	SAME(PROBE_STUBS);
	SAME(PROBE_PORT_VALUE);
	SAME(PROBE_PORT_FAULT);
	SAME(PROBE_PORT_ASK);
	SAME(PROBE_PORT_DONE);
	SAME(PROBE_REACHED);
}

void tell_all(void)
{
	requests();
	capabilities();
	exits();
	registers();
	tables();
	machine();
	world();
}
