"""Where a lab's kernel can come from: a Debian package that is unpacked but never installed,
or a kernel that is installed here and readable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kvmhost.lab.archive import decompress, files_of_package
from kvmhost.lab.errors import LabError
from kvmhost.lab.kernel import Kernel, store
from kvmhost.lab.modules import module_name

# Where distributions install kernels.
BOOT = Path("/boot")
MODULES = Path("/lib/modules")

# Where in a package the needed modules can lie. A whole kernel's would fill half a gigabyte.
MODULE_FOLDERS = (
    "arch/",
    "crypto/",
    "drivers/block/",
    "drivers/char/",
    "drivers/crypto/ccp/",
    "drivers/net/tun",
    "drivers/net/virtio_net",
    "drivers/net/net_failover",
    "drivers/virtio/",
    "fs/9p/",
    "fs/fscache/",
    "fs/netfs/",
    "fs/overlayfs/",
    "lib/",
    "net/9p/",
    "net/core/",
    "virt/",
)


def unpack_package(package: Path) -> Kernel:
    """Unpacks what a lab needs of a linux-image package (NAME_VERSION_ARCH.deb) into the cache.

    Raises LabError when the package is damaged or its kernel lacks something.
    """
    modules: dict[str, bytes] = {}
    builtin: list[str] = []
    image = b""
    for path, content in files_of_package(package):
        inside = path.partition("lib/modules/")[2].partition("/")[2]
        module = module_name(inside)
        if path.startswith("boot/vmlinuz-"):
            image = content.read()
        elif inside == "modules.builtin":
            builtin = content.read().decode().splitlines()
        elif module is not None and inside.removeprefix("kernel/").startswith(MODULE_FOLDERS):
            modules[module] = content.read()

    def find(name: str) -> bytes | None:
        return decompress(modules[name]) if name in modules else None

    name, _, rest = package.name.partition("_")
    version = rest.partition("_")[0]
    return store(version, f"{name} {version}", image, find, _names(builtin))


def unpack_installed() -> Kernel | None:
    """Unpacks the first installed kernel that can run a lab, or returns None.

    Its image must be readable (some distributions keep it for root).

    >>> [image for image, modules in _installed() if not modules.is_dir()]
    []
    """
    for image, modules in _installed():
        try:
            return _unpack_installed(image, modules)
        except (LabError, OSError):
            continue  # A kernel that does not suit is no error: there are other sources.
    return None


def _installed() -> Iterator[tuple[Path, Path]]:
    for image in sorted(BOOT.glob("vmlinuz-*"), reverse=True):
        modules = MODULES / image.name.removeprefix("vmlinuz-")
        if modules.is_dir() and os.access(image, os.R_OK):
            yield image, modules


def _unpack_installed(image: Path, modules: Path) -> Kernel:
    files = {module_name(path.name): path for path in modules.rglob("*.ko*")}

    def find(name: str) -> bytes | None:
        return decompress(files[name].read_bytes()) if name in files else None

    builtin = (modules / "modules.builtin").read_text().splitlines()
    name = f"installed-{modules.name}-{int(image.stat().st_mtime)}"
    return store(name, str(image), image.read_bytes(), find, _names(builtin))


def _names(builtin: list[str]) -> list[str]:
    return [name for line in builtin if (name := module_name(line)) is not None]
