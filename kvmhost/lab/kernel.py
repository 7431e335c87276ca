"""The lab's kernel: an ordinary distribution's, unpacked into the user's cache folder.

What is kept of one is a folder with `vmlinux` (uncompressed: QEMU boots that directly, and
an emulated CPU would need five seconds to unpack it), the dozen modules in `modules/`, and
`kernel.json`, which says where it came from and in which order the modules load. A folder
is filled under another name and renamed when it is complete, so whoever sees it can use it."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kvmhost.lab.archive import decompress
from kvmhost.lab.errors import LabError
from kvmhost.lab.modules import NETWORK, WANTED, NeededModuleMissing, in_load_order

MANIFEST = "kernel.json"


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that a lab can boot.

    `origin` is where it came from ("linux-image-... 6.1.1-1", or a path), `vmlinux` and
    `modules` (in load order) are files on this machine. `network` is whether the modules for a
    network are among them.
    """

    origin: str
    vmlinux: Path
    modules: tuple[Path, ...]
    network: bool = False


def cache_folder() -> Path:
    """Where unpacked kernels are kept: kvmhost/lab in the user's cache folder.

    Source: XDG Base Directory Specification, XDG_CACHE_HOME.

    >>> cache_folder().parts[-2:]
    ('kvmhost', 'lab')
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "kvmhost" / "lab"


def read_kernel(folder: Path) -> Kernel | None:
    """The unpacked kernel in `folder`, or None when there is none that can be read.

    One that an older kvmhost unpacked, without looking for a network, is none either.

    >>> read_kernel(Path("/nowhere")) is None
    True
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    if "network" not in manifest:
        return None
    return Kernel(
        origin=manifest["origin"],
        vmlinux=folder / "vmlinux",
        modules=_module_paths(folder, manifest["modules"]),
        network=manifest["network"],
    )


def _module_paths(folder: Path, names: Iterable[str]) -> tuple[Path, ...]:
    return tuple(folder / "modules" / name for name in names)


def cached_kernels() -> Iterator[Kernel]:
    """The unpacked kernels in the cache folder, the latest first."""

    def age(manifest: Path) -> float:
        return -manifest.stat().st_mtime

    for manifest in sorted(cache_folder().glob(f"*/{MANIFEST}"), key=age):
        kernel = read_kernel(manifest.parent)
        if kernel is not None:
            yield kernel


def store(
    name: str, origin: str, image: bytes, find: Callable[[str], bytes | None], builtin: Iterable[str]
) -> Kernel:
    """Puts a kernel into the cache under `name` and returns it.

    `image` is its bzImage; `find` and `builtin` are as for `modules.in_load_order`. Raises
    LabError when the kernel lacks what a lab needs.
    """
    try:
        modules, network = _all_modules(find, builtin)
        vmlinux = vmlinux_of(image)
    except NeededModuleMissing as error:
        raise LabError(
            f"the kernel of {origin} cannot run a lab: it has no module {error}",
            next_step="use a full distribution kernel (a cloud kernel, for one, has no 9p)",
        ) from error
    except ValueError as error:
        raise LabError(
            f"the kernel of {origin} cannot run a lab: {error}",
            next_step="use the kernel package of another version",
        ) from error
    cache = cache_folder()
    with tempfile.TemporaryDirectory(dir=cache, prefix=".unpacking-") as temporary:
        folder = Path(temporary) / "kernel"
        (folder / "modules").mkdir(parents=True)
        (folder / "vmlinux").write_bytes(vmlinux)
        for module, content in modules.items():
            (folder / "modules" / f"{module}.ko").write_bytes(content)
        files = [f"{module}.ko" for module in modules]
        manifest = {"origin": origin, "modules": files, "network": network}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        shutil.rmtree(cache / name, ignore_errors=True)
        folder.rename(cache / name)
    return Kernel(origin, cache / name / "vmlinux", _module_paths(cache / name, files), network)


def _all_modules(
    find: Callable[[str], bytes | None], builtin: Iterable[str]
) -> tuple[dict[str, bytes], bool]:
    """What any lab needs, and what a network needs if the kernel has it; and whether it has."""
    builtin = tuple(builtin)
    needed = in_load_order(find, builtin)
    try:
        return in_load_order(find, builtin, (*WANTED, *NETWORK)), True
    except NeededModuleMissing:
        return needed, False


def vmlinux_of(image: bytes) -> bytes:
    """Unpacks the ELF kernel out of a bzImage. Raises ValueError when it is none.

    Source: Linux/x86 boot protocol 2.08, payload_offset and payload_length.

    >>> vmlinux_of(b"MZ")
    Traceback (most recent call last):
    ValueError: its image is not a bzImage
    """
    if image[0x202:0x206] != b"HdrS":
        raise ValueError("its image is not a bzImage")
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    vmlinux = decompress(image[start : start + length])
    if not vmlinux.startswith(b"\x7fELF"):
        raise ValueError(f"its image holds no ELF file but something that starts with {vmlinux[:4].hex()}")
    return vmlinux
