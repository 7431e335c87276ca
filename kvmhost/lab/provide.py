"""Finding a kernel for the lab, or getting one: from the cache, from a package that lies in
the cache folder, from what is installed, and, only when asked to, from the distribution.

Several labs may start at once on a machine that has nothing unpacked yet. A lock makes one
of them do the work and the others wait for it."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvmhost.lab import apt, sources
from kvmhost.lab.errors import LabError
from kvmhost.lab.kernel import Kernel, cache_folder, cached_kernels
from kvmhost.lab.modules import NETWORK


def find_kernel() -> Kernel | None:
    """The kernel to boot, unpacking it first if need be; None when there is none.

    Never uses the network. Raises LabError when the cache folder cannot be written.
    """
    kernel = next(cached_kernels(), None)
    if kernel is not None:
        return kernel
    with _locked_cache() as cache:
        return next(cached_kernels(), None) or _unpack_any(cache)


def prepare() -> Kernel:
    """Makes sure that there is a kernel to boot, fetching Debian's if there is none.

    Does nothing when there is one already. Needs no root and installs nothing. Raises LabError
    when there is none and none can be fetched.

    >>> prepare() == find_kernel()
    True
    """
    kernel = find_kernel()
    if kernel is not None:
        return kernel
    with _locked_cache() as cache:
        kernel = next(cached_kernels(), None)
        if kernel is not None:
            return kernel
        package = apt.kernel_package()
        if package is None:
            raise kernel_missing()
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as temporary:
            apt.download(package, Path(temporary))
            return sources.unpack_package(next(Path(temporary).glob("*.deb")))


def kernel_missing() -> LabError:
    """The error that says that there is no kernel, and the line that fetches one."""
    return LabError("the lab has no kernel to boot", next_step=apt.fetch_line(cache_folder()))


def network_missing(kernel: Kernel) -> LabError:
    """The error that says that a kernel can run a lab, but none with a network."""
    return LabError(
        f"the lab's kernel has no network: {kernel.origin} lacks {' or '.join(NETWORK)}",
        next_step=f"move {kernel.vmlinux.parent} away, then {apt.fetch_line(cache_folder())}",
    )


def _unpack_any(cache: Path) -> Kernel | None:
    for package in sorted(cache.glob("linux-image-*.deb"), reverse=True):
        kernel = sources.unpack_package(package)
        package.unlink()
        return kernel
    return sources.unpack_installed()


@contextmanager
def _locked_cache() -> Iterator[Path]:
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / ".lock").open("w")
    except OSError as error:
        raise LabError(
            f"the lab's cache folder cannot be used: {error}",
            next_step="export XDG_CACHE_HOME=DIR with a folder that you may write",
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache
