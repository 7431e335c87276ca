"""The lab: a KVM where there is none.

Many machines have no KVM, or one that cannot do what Guests need. There this room boots an
ordinary distribution's kernel, with its own kvm_amd, on a CPU that QEMU emulates, puts the
host's files beneath it, and runs a command inside as if it ran here. Every bit of KVM
behaviour is the real module's; only the silicon is not.

In reading order: session.py says what happens; provide.py, kernel.py, sources.py, modules.py,
archive.py and apt.py come by a kernel; initramfs.py and qemu.py make the machine; job.py,
conversation.py, plumbing.py, streams.py, terminal.py and signals.py talk with it; channel.py and native/lab
are the other end. Nothing here imports another room of kvmhost.

    from kvmhost import lab

    status = lab.check()
    if status.ready:
        code = lab.run(["uname", "-a"], timeout=60)
    else:
        print(status.next_step)
"""

from kvmhost.lab.channel import channel_count, open_channel
from kvmhost.lab.errors import LabError, LabTimeout
from kvmhost.lab.kernel import Kernel
from kvmhost.lab.provide import prepare
from kvmhost.lab.session import IN_LAB, run
from kvmhost.lab.status import LabStatus, check
from kvmhost.lab.streams import Streams

__all__ = [
    "IN_LAB",
    "Kernel",
    "LabError",
    "LabStatus",
    "LabTimeout",
    "Streams",
    "channel_count",
    "check",
    "open_channel",
    "prepare",
    "run",
]
