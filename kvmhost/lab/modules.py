"""Which kernel modules a lab needs, and in what order they load.

Each module says in its own .modinfo section which others it depends on, so neither depmod
nor its tables are needed: a package that is only unpacked has none."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

ELF64_MAGIC = b"\x7fELF\x02\x01"

# What the lab's PID 1 uses: its ports, the host's files, and KVM for the CPU that QEMU emulates.
WANTED = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay", "kvm_amd")
# For a lab with a network, and TAPs in any lab; a kernel without them runs labs that need neither.
NETWORK = ("virtio_net", "tun")


class NeededModuleMissing(Exception):
    """A kernel has neither built in nor as a module what the lab needs; str() names it."""


def module_name(file_name: str) -> str | None:
    """The name of the module in a file, as the kernel spells it, or None if it is no module.

    >>> module_name("kernel/arch/x86/kvm/kvm-amd.ko.xz"), module_name("modules.order")
    ('kvm_amd', None)
    """
    base, dot, rest = file_name.rpartition("/")[2].partition(".ko")
    if not dot or rest not in ("", ".xz", ".zst", ".gz"):
        return None
    return base.replace("-", "_")


def modinfo(module: bytes) -> dict[str, str]:
    """The fields of a module's .modinfo section; `module` is an uncompressed ELF64 object.

    Raises ValueError when it is no such object or has no such section.
    Source: the ELF-64 object file format, "Section header".
    """
    if not module.startswith(ELF64_MAGIC):
        raise ValueError("not a 64-bit ELF object")
    (section_offset,) = struct.unpack_from("<Q", module, 0x28)
    section_count, names_index = struct.unpack_from("<HH", module, 0x3C)
    sections = [struct.unpack_from("<IIQQQQ", module, section_offset + 64 * i) for i in range(section_count)]
    names = sections[names_index][4]
    for name, _, _, _, offset, size in sections:
        start = names + name
        if module[start : start + 9] == b".modinfo\0":
            fields = module[offset : offset + size].decode("latin-1").split("\0")
            return dict(field.split("=", 1) for field in fields if "=" in field)
    raise ValueError("no .modinfo section")


def in_load_order(
    find: Callable[[str], bytes | None], builtin: Iterable[str], wanted: Iterable[str] = WANTED
) -> dict[str, bytes]:
    """Returns name -> uncompressed module for `wanted` and all they depend on, in load order.

    `find` returns the uncompressed module of a name, or None; `builtin` are names that the
    kernel has in itself. Raises NeededModuleMissing.
    """
    built_in = set(builtin)
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in found or name in built_in:
            return
        module = find(name)
        if module is None:
            raise NeededModuleMissing(name)
        for needed in modinfo(module).get("depends", "").split(","):
            if needed:
                add(needed.replace("-", "_"))
        found[name] = module

    for name in wanted:
        add(name)
    return found
