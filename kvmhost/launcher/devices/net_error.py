"""What is wrong with a network that somebody asked for."""

from kvmhost.host.errors import KvmhostError


class NetError(KvmhostError):
    """A network card cannot be had as asked; nothing was run.

    usage: True if the words themselves were wrong, and not this machine.

    >>> raise NetError("there is no TAP", cause="the module is missing", next_step="modprobe tun")
    Traceback (most recent call last):
    ...
    kvmhost.launcher.devices.net_error.NetError: there is no TAP: the module is missing. Next: modprobe tun
    """

    def __init__(self, message: str, *, cause: str, next_step: str, usage: bool = False) -> None:
        super().__init__(message, cause=cause, next_step=next_step)
        self.usage = usage
