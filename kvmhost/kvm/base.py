"""How this room talks to the kernel, and who owns a file descriptor.

An ioctl is called by its kernel name: the name finds the number (which only the C compiler knows), and the
same name finds the words if it fails.  An Owner holds one fd, closes it exactly once, and says so when it
is used after.
"""

import errno
import os
import warnings
from types import TracebackType
from typing import Any, Self

from kvmhost._native import ffi, lib
from kvmhost.kvm.errors import ClosedError, explain

PAGE = 4096


def new(kind: str, initial: Any = None) -> Any:
    """A C object, zeroed or filled with `initial`; typed Any, for only the C compiler knows its members.

    >>> new("struct kvm_regs *", {"rax": 5}).rax
    5
    """
    return ffi.new(kind, initial)


def ioctl(fd: int, name: str, argument: Any = ffi.NULL, *, retry: bool = False) -> int:
    """Call the ioctl `name` on `fd`; argument: cdata pointer, or an int where the kernel wants a number.

    Returns what the kernel returned; raises KvmError.  retry: call again on EINTR, only where the kernel
    documents that a signal can break it off (KVM_CREATE_VM).

    >>> ioctl(-1, "KVM_CREATE_VM", 0)
    Traceback (most recent call last):
    ...
    kvmhost.kvm.errors.KvmError: KVM_CREATE_VM: the file descriptor is not open (EBADF). Next: ...
    """
    call = lib.kvmhost_ioctl_number if isinstance(argument, int) else lib.kvmhost_ioctl
    request = getattr(lib, name)
    while True:
        result: int = call(fd, request, argument)
        if result >= 0:
            return result
        if not (retry and result == -errno.EINTR):
            raise explain(name, -result)


class Owner:
    """Owns one file descriptor: a context manager, closed once, clear when used after."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        """The file descriptor, still owned by this object; raises ClosedError when there is none any more.

        >>> vm.fd == vm.fd > 2
        True
        """
        if self._fd < 0:
            raise ClosedError(type(self).__name__)
        return self._fd

    @property
    def closed(self) -> bool:
        """True once close() was called.

        >>> vm.closed
        False
        """
        return self._fd < 0

    def close(self) -> None:
        """Give everything back to the kernel.  Closing twice is harmless.

        >>> vcpu.close()
        >>> vcpu.close()
        >>> vcpu.regs()
        Traceback (most recent call last):
        ...
        kvmhost.kvm.errors.ClosedError: Vcpu: it is closed. Next: ...
        """
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._release()
            os.close(fd)

    def _release(self) -> None:
        """What else goes away with the fd; called once, before the fd is closed."""

    def __enter__(self) -> Self:
        _ = self.fd
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            warnings.warn(
                f"{type(self).__name__} was never closed", ResourceWarning, source=self, stacklevel=2
            )
            self.close()


def enable_cap(fd: int, cap: int, args: tuple[int, ...], flags: int) -> None:
    """KVM_ENABLE_CAP on a VM's or a vCPU's descriptor; up to four 64-bit arguments."""
    c = new("struct kvm_enable_cap *", {"cap": int(cap), "flags": flags})
    for place, value in enumerate(args):
        c.args[place] = value
    ioctl(fd, "KVM_ENABLE_CAP", c)
