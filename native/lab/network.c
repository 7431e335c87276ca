/* The lab's network.  The loopback is always there.  If QEMU was given a card, its other end
 * is a gateway inside QEMU that hands out fixed addresses: so they are simply set, and
 * nobody has to ask by DHCP. */
#include "lab.h"
#include "sys.h"
#include <linux/if.h>
#include <linux/in.h>
#include <linux/route.h>
#include <linux/sockios.h>

#define IP(a, b, c, d) __builtin_bswap32((__u32)(a) << 24 | (b) << 16 | (c) << 8 | (d))

static struct sockaddr address(__u32 ip)
{
	union {
		struct sockaddr_in in;
		struct sockaddr any;
	} both = {.in = {.sin_family = AF_INET, .sin_addr = {ip}}};

	return both.any;
}

static void switch_on(int socket, struct ifreq interface)
{
	interface.ifr_flags = IFF_UP;
	SYS3(ioctl, socket, SIOCSIFFLAGS, &interface);
}

static void write_file(const char *path, int flags, const char *text, size_t size)
{
	long fd = SYS3(open, path, O_WRONLY | O_CLOEXEC | flags, 0644);

	if (fd < 0)
		die(path, fd);
	sys_write((int)fd, text, size);
	sys_close((int)fd);
}

/* Anybody may ping: without this even the answer to a ping of the gateway, which QEMU gives
 * itself, has no socket that a user without rights could ask with. */
static void allow_ping(void)
{
	static const char everybody[] = "0 2147483647";

	write_file("/proc/sys/net/ipv4/ping_group_range", 0, everybody, sizeof(everybody) - 1);
}

/* The host's resolver may listen on the host's loopback, where nobody gets from here; QEMU
 * forwards to it.  The file is often a link into a folder that is empty here. */
static void set_resolver(void)
{
	static const char resolver[] = "nameserver 10.0.2.3\n";

	SYS1(unlink, "/etc/resolv.conf");
	write_file("/etc/resolv.conf", O_CREAT | O_EXCL, resolver, sizeof(resolver) - 1);
}

/* [L55] Whoever asked for a network finds it ready: the same addresses that every user of
 * QEMU's user network has, and the machine outside as the gateway. */
void network_start(void)
{
	struct ifreq card = {.ifr_name = "eth0"};
	struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
	int fd = (int)SYS3(socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	long result;

	switch_on(fd, (struct ifreq){.ifr_name = "lo"});
	allow_ping();
	card.ifr_addr = address(IP(10, 0, 2, 15));
	if (!SYS3(ioctl, fd, SIOCSIFADDR, &card)) {
		card.ifr_netmask = address(IP(255, 255, 255, 0));
		SYS3(ioctl, fd, SIOCSIFNETMASK, &card);
		switch_on(fd, card);
		route.rt_dst = route.rt_genmask = address(0);
		route.rt_gateway = address(IP(10, 0, 2, 2));
		result = SYS3(ioctl, fd, SIOCADDRT, &route);
		if (result < 0)
			die("the route to QEMU's gateway", result);
		set_resolver();
	}
	sys_close(fd);
}
