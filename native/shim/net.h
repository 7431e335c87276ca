/* What a network device needs of the kernel's headers; cdef/net.cdef lists what of it Python takes. */
#ifndef KVMHOST_SHIM_NET_H
#define KVMHOST_SHIM_NET_H

#include <linux/if.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>

#endif
