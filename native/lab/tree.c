/* The lab's files are the host's own.  Its / comes read-only over 9p, beneath an overlay
 * whose upper layer is memory: a program may write anywhere and nothing outside changes.
 * A tmpfs over the temporary folder would be simpler, but would hide a project that lies
 * in it.  Folders that are to be written back are mounted over the overlay, uncached, so
 * that both sides always see the same. */
#include "lab.h"
#include "sys.h"
#include "text.h"
#include <linux/mount.h>

#define HOST_OPTIONS "trans=virtio,version=9p2000.L,access=any,cache=loose,msize=512000"
#define WRITABLE_OPTIONS "trans=virtio,version=9p2000.L,access=any,cache=none,msize=262144"
#define LAYERS "lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work"

static void mount(const char *source, const char *where, const char *type, long flags, const char *options)
{
	long result = SYS5(mount, source, where, type, flags, options);

	if (result < 0)
		die(where, result);
}

/* [L50] The machine inside gets the files of the machine outside: read through a cache,
 * since nobody outside is expected to change a program while it runs, and covered by a
 * layer of memory that takes what is written and is forgotten with it. */
static void mount_root(void)
{
	sys_mkdir("/host");
	sys_mkdir("/layer");
	sys_mkdir("/root");
	mount("host", "/host", "9p", MS_RDONLY, HOST_OPTIONS);
	mount("layer", "/layer", "tmpfs", 0, "");
	sys_mkdir("/layer/upper");
	sys_mkdir("/layer/work");
	mount("root", "/root", "overlay", 0, LAYERS);
}

/* The kernel's own file systems; the host may lack the mount points (a container). */
static void mount_kernel_files(void)
{
	sys_mkdir("/root/dev");
	sys_mkdir("/root/proc");
	sys_mkdir("/root/sys");
	mount("/dev", "/root/dev", 0, MS_MOVE, 0);
	mount("proc", "/root/proc", "proc", 0, "");
	mount("sys", "/root/sys", "sysfs", 0, "");
	sys_mkdir("/root/dev/shm");
	sys_mkdir("/root/dev/pts");
	mount("shm", "/root/dev/shm", "tmpfs", 0, "mode=1777");
	mount("pts", "/root/dev/pts", "devpts", 0, "mode=666,ptmxmode=666");
	SYS2(symlink, "/proc/self/fd", "/root/dev/fd");
	SYS2(symlink, "/proc/self/fd/0", "/root/dev/stdin");
	SYS2(symlink, "/proc/self/fd/1", "/root/dev/stdout");
	SYS2(symlink, "/proc/self/fd/2", "/root/dev/stderr");
	/* Whoever was allowed to start the lab may use its KVM, and the TAPs that are his. */
	SYS2(chmod, "/root/dev/kvm", 0666);
	SYS2(chmod, "/root/dev/net/tun", 0666);
}

/* The writable folders, in the order of the job: outer ones come first.  What lies in one
 * but is to be read through the overlay's cache is held open meanwhile and bound over it. */
static void mount_writable(const struct job *job)
{
	int held[MAX_WRITABLE];
	char text[32];

	for (int i = 0; i < job->cached_count; i++)
		held[i] = sys_open(job->cached[i], O_PATH | O_DIRECTORY);
	for (int i = 0; i < job->writable_count; i++) {
		text_append_number(text_append(text, "w"), i);
		mount(text, job->writable[i], "9p", 0, WRITABLE_OPTIONS);
	}
	for (int i = 0; i < job->cached_count; i++) {
		text_append_number(text_append(text, "/proc/self/fd/"), held[i]);
		mount(text, job->cached[i], 0, MS_BIND, 0);
		sys_close(held[i]);
	}
}

void tree_enter(const struct job *job)
{
	mount_root();
	mount_kernel_files();
	SYS1(chdir, "/root");
	mount(".", "/", 0, MS_MOVE, 0);
	SYS1(chroot, ".");
	SYS1(chdir, "/");
	mount_writable(job);
}
