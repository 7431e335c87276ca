"""What an image says, whatever format it came in: bytes at Guest-physical addresses, and where to begin."""

from collections.abc import Iterator
from dataclasses import dataclass

from kvmhost.host.abi import DEFAULT, Abi
from kvmhost.launcher.linux import UNKNOWN, Kernel


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes to copy to Guest-physical `physical`, in a piece of memory of `size` bytes (the rest is zero).

    >>> Segment(0x100000, b"abc", 4096).end == 0x101000
    True
    """

    physical: int
    data: bytes
    size: int

    @property
    def end(self) -> int:
        return self.physical + self.size


@dataclass(frozen=True, slots=True)
class Note:
    """One ELF note: who wrote it, what kind it is to them, and its bytes."""

    owner: str
    kind: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Image:
    """A Guest that can be loaded.

    entry: Guest-physical address of the first instruction.  abi: the generation it speaks: what --abi or
    a note of its own says, else what its release does.  page_offset: linear minus physical address of
    the kernel, 0 where they are the same, None where it is not known.  kernel: what a Linux kernel
    says about itself.  runs_to: the first Guest-physical address behind the kernel once it is unpacked;
    0 where it runs where it was loaded, or nobody knows.  init_size: bytes that it needs from where it
    unpacks itself to, as a bzImage says; else 0.  told: a note says what its abi is.  insisted: a person
    does, who knows better than what is found in it.

    >>> Image("x", 0x100000, (Segment(0x100000, b"", 4096),), ()).end == 0x101000
    True
    """

    name: str
    entry: int
    segments: tuple[Segment, ...]
    notes: tuple[Note, ...]
    abi: Abi = DEFAULT
    page_offset: int | None = None
    kernel: Kernel = UNKNOWN
    format: str = "ELF"
    runs_to: int = 0
    init_size: int = 0
    told: bool = False
    insisted: bool = False

    @property
    def says_abi(self) -> bool:
        """Whether anything but habit tells which generation it speaks."""
        return self.insisted or self.told or self.release is not None

    @property
    def release(self) -> str | None:
        """As `uname -r` prints it; None for what is no Linux."""
        return self.kernel.release

    @property
    def pae(self) -> bool | None:
        """Whether its page tables have three levels, where that can be known."""
        return self.kernel.pae

    @property
    def lguest(self) -> bool | None:
        """Whether a Linux kernel was built as a Guest, where that can be known."""
        return self.kernel.lguest

    @property
    def end(self) -> int:
        """The first Guest-physical address behind the image."""
        return max(segment.end for segment in self.segments)

    @property
    def needs(self) -> int:
        """Bytes of memory without which it surely cannot run."""
        return max(self.end, self.runs_to)

    def own_notes(self, kind: int) -> Iterator[bytes]:
        """The notes of `kind` that say something to kvmhost."""
        return (note.data for note in self.notes if note.owner == "kvmhost" and note.kind == kind)
