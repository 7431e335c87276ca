/*
 * Instructions that a kernel executes although ring 1 may not, because no hook replaces
 * them; the FPU's flag that does have one; and what CPUID must not tell.
 */
#include "checks.h"
#include "ports.h"

#define MSR_PATCH_LEVEL 0x8B
#define MSR_STAR 0xC0000081
#define CPUID_HYPERVISOR 0x80000000
#define CPUID_SEP 0x00000800
#define KVM_LEAF 0x40000000
#define NO_PORT 0x1234
#define CR0_PE 0x1u
#define CR0_EM 0x4u
#define CR0_PG 0x80000000u
/* A PC's interval timer. */
#define TIMER_0 0x40
#define TIMER_2 0x42
#define TIMER_COMMAND 0x43
#define TIMER_GATE 0x61
#define TIMER_2_ONE_SHOT 0xB0
#define TIMER_0_READ_BACK 0xC2
#define TIMER_NOT_READY 0x40
#define TIMER_2_AT_ITS_END 0x20

static uint32_t not_available;

static void cpuid(uint32_t leaf, uint32_t words[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(words[0]), "=b"(words[1]), "=c"(words[2]), "=d"(words[3])
			 : "a"(leaf), "c"(0));
}

static const char *check_cpuid(void)
{
	uint32_t words[4];

	cpuid(0, words);
	if (!words[1] || !words[0])
		return "CPUID names no vendor";
	cpuid(1, words);
	if (words[2] & CPUID_HYPERVISOR)
		return "CPUID tells of a hypervisor";
	if (words[3] & CPUID_SEP)
		return "CPUID offers SYSENTER";
	if ((words[0] >> 8 & 15) == 6)
		return "CPUID says family 6, for which kernels read MSRs";
	cpuid(KVM_LEAF, words);
	if (words[1] | words[2] | words[3])
		return because("CPUID leaf 0x%x is not empty", KVM_LEAF);
	return NULL;
}

static const char *check_msrs(void)
{
	uint32_t low = 1, high = 1;

	__asm__ volatile("wrmsr" : : "c"(MSR_STAR), "a"(0x12345678), "d"(0x9ABCDEF0));
	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(MSR_STAR));
	if (low | high)
		return because("an MSR that was written reads 0x%x%08x", high, low);
	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(MSR_PATCH_LEVEL));
	return low | high ? because("an MSR reads 0x%x%08x", high, low) : NULL;
}

/* Where nothing is, a port reads all ones, and the rest of EAX is as it was. */
static const char *check_ports(void)
{
	uint32_t value = 0x12340055;

	__asm__ volatile("inb %w1, %b0" : "+a"(value) : "d"(NO_PORT));
	if (value != 0x123400FF)
		return because("inb left 0x%x", value);
	value = 0x12345678;
	__asm__ volatile("inw %w1, %w0" : "+a"(value) : "d"(NO_PORT));
	if (value != 0x1234FFFF)
		return because("inw left 0x%x", value);
	value = 0x12345678;
	__asm__ volatile("inb $0x71, %b0" : "+a"(value));
	if (value != 0x123456FF)
		return because("inb from port 0x71 left 0x%x", value);
	out8(0x80, 0);
	out16(NO_PORT, 0x1234);
	out32(NO_PORT, 0x12345678);
	return in32(NO_PORT) == 0xFFFFFFFF ? NULL : "inl does not read all ones";
}

/*
 * There is no interval timer, and a kernel must find that out soon.  One of 4.9 on starts a
 * count-down in counter 2 and reads as long as its upper half does not move; every one waits
 * for the end of a longer count-down by bit 5 of port 0x61; and a decompressor that wants
 * randomness reads the status of counter 0 until bit 6 is clear.
 */
static const char *check_timer(void)
{
	out8(TIMER_COMMAND, TIMER_2_ONE_SHOT);
	out8(TIMER_2, 0xFF);
	out8(TIMER_2, 0xFF);
	in8(TIMER_2);
	if (in8(TIMER_2) == 0xFF)
		return "a timer that is not there seems to have just begun to count";
	if (!(in8(TIMER_GATE) & TIMER_2_AT_ITS_END))
		return "a timer that is not there never comes to its end";
	out8(TIMER_COMMAND, TIMER_0_READ_BACK);
	return in8(TIMER_0) & TIMER_NOT_READY ? "a timer that is not there is never ready" : NULL;
}

/* A decompressor that randomizes looks into CR0 for an FPU, and a 4.4 reads CR4 before it has gates. */
static const char *check_control_registers(void)
{
	uint32_t cr0 = CR0_TS, cr4 = 1;

	__asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
	if ((cr0 & (CR0_PE | CR0_PG)) != (CR0_PE | CR0_PG) || cr0 & (CR0_EM | CR0_TS))
		return because("CR0 reads 0x%x", cr0);
	__asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
	return cr4 ? because("CR4 reads 0x%x", cr4) : NULL;
}

static void take_fpu(struct trap_frame *frame)
{
	(void)frame;
	not_available++;
	hypercall(LHCALL_TS, 0, 0, 0, 0);
}

/* The FPU is given away by TS, and asked back by a trap. */
static const char *check_fpu(void)
{
	set_gate(7, GATE_INTERRUPT, 0, take_fpu);
	__asm__ volatile("fninit");
	if (not_available)
		return "the FPU trapped without TS";
	hypercall_later(LHCALL_TS, CR0_TS, 0, 0, 0);
	hypercall(LHCALL_FLUSH_ASYNC, 0, 0, 0, 0);
	__asm__ volatile("fninit");
	__asm__ volatile("fninit");
	return not_available == 1 ? NULL : because("the FPU trapped %u times after TS", not_available);
}

const char *check_cpu(void)
{
	const char *problem = check_cpuid();

	if (!problem)
		problem = check_msrs();
	if (!problem)
		problem = check_ports();
	if (!problem)
		problem = check_timer();
	if (!problem)
		problem = check_control_registers();
	__asm__ volatile("cli");
	return problem ? problem : check_fpu();
}
