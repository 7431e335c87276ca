"""The Machine a user holds: the host room's, and a way to put images into it.

The host room knows Guests as memory and registers.  Here a file becomes one: read, judged, laid out, written
into the Guest's memory, and its first instruction named.
"""

import os
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, BinaryIO

from kvmhost.host import machine as host
from kvmhost.host.abi import DEFAULT
from kvmhost.host.guest import PAGE_OFFSET
from kvmhost.launcher import images
from kvmhost.launcher.boot import lay_out
from kvmhost.launcher.image import Image
from kvmhost.launcher.memory import parse_memory

if TYPE_CHECKING:
    from kvmhost.host.guest import Guest

Source = str | os.PathLike[str] | BinaryIO | images.OpenImage


class Machine(host.Machine):
    """A virtual machine that Guests are loaded into and run in; a context manager.

    `memory` is what each Guest gets unless load() says otherwise: "64M", "1G", or bytes. Everything else is
    the host room's: `cpus`, `switcher`, `kvm`. Raises MemorySizeError, and what the host room raises.

    >>> with Machine(memory="4M") as machine:
    ...     guest = machine.load("hello", "a few words")
    ...     guest.run().reason
    'Power down'
    """

    def __init__(self, memory: str | int = "64M", **rest: Any) -> None:
        size = parse_memory(memory)
        super().__init__(memory=size, **rest)

    def load(
        self,
        image: Source,
        command_line: str = "",
        memory: str | int | None = None,
        initrd: Source | None = None,
    ) -> "Guest":
        """Make one Guest of `image`: a path, the name of a shipped Guest, or an open file.

        `initrd` is named the same way. What is opened here is closed again; an open file stays the caller's.
        Raises ImageError or MemorySizeError (both say what to do), and KvmhostError if the Machine is full.

        >>> with Machine(memory="4M") as machine, open("/etc/passwd", "rb") as ramdisk:
        ...     machine.load("hello", initrd=ramdisk).run().succeeded
        True
        """
        return self._add(_read_image(image), command_line, memory, _read(initrd))

    def load_all(
        self,
        image: Source,
        command_line: str = "",
        memory: str | int | None = None,
        initrd: Source | None = None,
    ) -> "list[Guest]":
        """As load(), but as many Guests as the image asks for.

        An image asks by an ELF note (owner "kvmhost", type NOTE_COPIES, a u32). Each copy finds its number
        behind its command line: "copy=0", "copy=1", ...

        >>> with Machine(memory="4M") as machine:
        ...     [guest.name for guest in machine.load_all("pair", "ticks=3")]
        ['pair-0', 'pair-1']
        """
        parsed, ramdisk = _read_image(image), _read(initrd)
        count = images.copies(parsed)
        if count == 1:
            return [self._add(parsed, command_line, memory, ramdisk)]
        return [
            self._add(parsed, f"{command_line} copy={copy}".strip(), memory, ramdisk, f"-{copy}")
            for copy in range(count)
        ]

    def _add(
        self,
        image: Image,
        command_line: str,
        memory: str | int | None,
        initrd: bytes | None,
        suffix: str = "",
    ) -> "Guest":
        size = self.default_memory if memory is None else parse_memory(memory)
        layout = lay_out(image, size, command_line, initrd)
        told = image.release is not None or image.abi is not DEFAULT
        guest = self.add_guest(
            size,
            _short_name(image.name) + suffix,
            abi=image.abi if told else None,
            page_offset=image.page_offset or PAGE_OFFSET,
            pae=bool(image.pae),
        )
        for address, data in layout.pieces:
            guest.ram.write(address, data)
        guest.set_entry(layout.entry)
        return guest


def _short_name(name: str) -> str:
    """The file's name without a suffix; the end of a release is none.

    >>> _short_name("guests/hello.elf"), _short_name("/boot/vmlinux-2.6.32")
    ('hello', 'vmlinux-2.6.32')
    """
    path = PurePath(name)
    return path.stem if path.suffix[1:].isalpha() else path.name


def _read(source: Source | None) -> bytes | None:
    if source is None:
        return None
    with images.adopt(source) as file:
        return file.read()


def _read_image(source: Source) -> Image:
    with images.adopt(source) as file:
        return images.parse(file.read(), file.name)
