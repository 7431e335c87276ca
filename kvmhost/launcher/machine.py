"""The Machine a user holds: the host room's, and a way to put images into it.

The host room knows Guests as memory and registers.  Here a file becomes one: read, judged, laid out, written
into the Guest's memory, and its first instruction named.
"""

import os
from contextlib import ExitStack
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, BinaryIO

from kvmhost.host import machine as host
from kvmhost.host.errors import KvmhostError
from kvmhost.host.guest import PAGE_OFFSET
from kvmhost.launcher import images
from kvmhost.launcher.boot import lay_out
from kvmhost.launcher.devices.bus import device_bytes
from kvmhost.launcher.equipment import Equipment
from kvmhost.launcher.generation import parse_abi
from kvmhost.launcher.image import Image
from kvmhost.launcher.memory import parse_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmhost.host.guest import Guest
    from kvmhost.host.outcome import Outcome

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
        self._held = ExitStack()
        super().__init__(memory=parse_memory(memory), **rest)

    def load(
        self,
        image: Source,
        command_line: str = "",
        memory: str | int | None = None,
        initrd: Source | None = None,
        abi: str | None = None,
        **equipment: Any,
    ) -> "Guest":
        """Make one Guest of `image`: a path, the name of a shipped Guest, or an open file.

        `initrd` is named the same way. What is opened here is closed again; an open file stays the caller's.
        `abi` is the generation it speaks, such as "3.1", for an image that does not say so, or says it
        wrongly: then it is taken for what you say it is.
        `equipment` is what it is given besides: `console`, `block`, `net`, `rng`, as an Equipment has them.

        Raises ImageError, AbiError, MemorySizeError, DiskError, NetError or DeviceError (all say what to
        do), and KvmhostError if the Machine is full.

        >>> with Machine(memory="4M") as machine, open("/etc/passwd", "rb") as ramdisk:
        ...     machine.load("hello", initrd=ramdisk, rng=True).run().succeeded
        True

        A Linux Guest with a disk and the network, and a script for its shell:

            console = Console()
            devices = {"block": ["root.img"], "net": ["user"], "console": console}
            guest = machine.load("vmlinuz", "root=/dev/vda", **devices)
            guest.console.append(sys.stdout.buffer.write)
            console.type(b"uname -a; poweroff\\n")
            outcome = guest.run(timeout=600)
        """
        return self._add(_read_image(image, abi), command_line, memory, _read(initrd), Equipment(**equipment))

    def load_all(
        self,
        image: Source,
        command_line: str = "",
        memory: str | int | None = None,
        initrd: Source | None = None,
        abi: str | None = None,
        **equipment: Any,
    ) -> "list[Guest]":
        """As load(), but as many Guests as the image asks for.

        An image asks by an ELF note (owner "kvmhost", type NOTE_COPIES, a u32). Each copy finds its number
        behind its command line: "copy=0", "copy=1", ...  The first has the console; disks and cards cannot be
        had by several (KvmhostError).

        >>> with Machine(memory="4M") as machine:
        ...     [guest.name for guest in machine.load_all("pair", "ticks=3")]
        ['pair-0', 'pair-1']
        """
        parsed, ramdisk = _read_image(image, abi), _read(initrd)
        count = images.copies(parsed)
        first = Equipment(**equipment)
        if count == 1:
            return [self._add(parsed, command_line, memory, ramdisk, first)]
        if first.block or first.net:
            raise KvmhostError(
                f"{parsed.name} makes {count} Guests, and a disk or a network card is one Guest's alone",
                next_step="leave out disks and networks for this image",
            )
        others = Equipment(rng=first.rng)
        guests: list[Guest] = []
        with ExitStack() as undo:
            for copy in range(count):
                words = f"{command_line} copy={copy}".strip()
                given = others if copy else first
                guests.append(self._add(parsed, words, memory, ramdisk, given, f"-{copy}"))
                undo.callback(self._take_back, guests[-1])
            undo.pop_all()
        return guests

    def run(
        self, timeout: float | None = None, until: "Guest | Callable[[], bool] | None" = None
    ) -> "dict[Guest, Outcome]":
        """As the host room's; what a Guest that is over still had to say or to write is out by then."""
        try:
            return super().run(timeout, until)
        finally:
            with ExitStack() as then:
                for guest in reversed(self.guests):
                    if guest.outcome is not None and guest.bus is not None:
                        then.callback(guest.bus.close)

    def close(self) -> None:
        """As the host room's; then what was opened for devices is closed, and not before."""
        try:
            super().close()
        finally:
            if self.closed:
                self._held.close()

    def _add(
        self,
        image: Image,
        command_line: str,
        memory: str | int | None,
        initrd: bytes | None,
        equipment: Equipment,
        suffix: str = "",
    ) -> "Guest":
        size = self.default_memory if memory is None else parse_memory(memory)
        layout = lay_out(image, size, command_line, initrd)
        guest = self.add_guest(
            size,
            _short_name(image.name) + suffix,
            abi=image.abi if image.says_abi else None,
            page_offset=image.page_offset or PAGE_OFFSET,
            pae=bool(image.pae),
            device_bytes=device_bytes(image.abi),
        )
        with ExitStack() as undo:
            undo.callback(self._take_back, guest)
            for address, data in layout.pieces:
                guest.ram.write(address, data)
            guest.set_entry(layout.entry)
            with ExitStack() as held:
                equipment.fit(guest, held)
                self._held.push(held.pop_all())
            undo.pop_all()
        return guest

    def _take_back(self, guest: "Guest") -> None:
        """It could not be made whole, so nobody is to run it."""
        if guest.bus is not None:
            guest.bus.close()
        self.take_back(guest)


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
    with images.adopt(source, images.open_initrd) as file:
        return file.read()


def _read_image(source: Source, abi: str | None) -> Image:
    with images.adopt(source) as file:
        return images.parse(file.read(), file.name, None if abi is None else parse_abi(abi))
