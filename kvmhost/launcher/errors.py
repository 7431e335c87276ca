"""What is wrong with what the user gave us: an image that is none, a size that cannot be."""

from kvmhost.host.errors import KvmhostError


class ImageError(KvmhostError):
    """An image, an initrd or a command line cannot be used; nothing was run.

    >>> raise ImageError("hello.elf is empty", next_step="build it again")
    Traceback (most recent call last):
    ...
    kvmhost.launcher.errors.ImageError: hello.elf is empty. Next: build it again
    """

    def __init__(self, message: str, next_step: str, cause: str = "") -> None:
        super().__init__(message, cause=cause, next_step=next_step)


class AbiError(KvmhostError):
    """A generation of lguest's ABI that does not exist."""


class MemorySizeError(KvmhostError):
    """A memory size that no Guest can have."""


class DeviceError(KvmhostError):
    """A device cannot be given to a Guest; nothing was run."""


class CommandLineError(ImageError):
    """A command line that no Guest can be given; what was typed is wrong, not the image."""

    usage = True
