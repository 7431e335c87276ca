/* The few things PID 1 asks of the kernel, each a system call and nothing more.
 *
 * The lab's first process is linked with no C library: the machine that builds it may
 * have none that is static, and a library would be the larger part of it.  Every call
 * returns what the kernel returned: a negative error number when it refused. */
#ifndef KVMHOST_LAB_SYS_H
#define KVMHOST_LAB_SYS_H

#include <asm/fcntl.h>
#include <asm/ioctls.h>
#include <asm/unistd.h>
#include <linux/types.h>
#include <stddef.h>

static inline long sys(long number, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}

#define SYS0(name) sys(__NR_##name, 0, 0, 0, 0, 0)
#define SYS1(name, a) sys(__NR_##name, (long)(a), 0, 0, 0, 0)
#define SYS2(name, a, b) sys(__NR_##name, (long)(a), (long)(b), 0, 0, 0)
#define SYS3(name, a, b, c) sys(__NR_##name, (long)(a), (long)(b), (long)(c), 0, 0)
#define SYS4(name, a, b, c, d) sys(__NR_##name, (long)(a), (long)(b), (long)(c), (long)(d), 0)
#define SYS5(name, a, b, c, d, e) sys(__NR_##name, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

static inline int sys_open(const char *path, int flags)
{
	return (int)SYS3(open, path, flags | O_CLOEXEC, 0);
}

static inline long sys_read(int fd, void *bytes, size_t size)
{
	return SYS3(read, fd, bytes, size);
}

static inline long sys_write(int fd, const void *bytes, size_t size)
{
	return SYS3(write, fd, bytes, size);
}

static inline long sys_close(int fd)
{
	return SYS1(close, fd);
}

static inline long sys_dup2(int from, int to)
{
	return SYS2(dup2, from, to);
}

static inline long sys_mkdir(const char *path)
{
	return SYS2(mkdir, path, 0755);
}

#endif
