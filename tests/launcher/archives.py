"""Archives in cpio's "newc" format, put together by its description and not by the reader under test."""

from typing import Final

FILE: Final = 0o100755
LINK: Final = 0o120777
FOLDER: Final = 0o040755
PROGRAM: Final = b"\x7fELF\1\1\1" + bytes(9) + b"\2\0\3\0" + bytes(32)
PROGRAM_64: Final = b"\x7fELF\2\1\1" + bytes(9) + b"\2\0\x3e\0" + bytes(32)


def member(
    name: str, content: bytes = b"", mode: int = FILE, name_size: int | None = None, size: int | None = None
) -> bytes:
    """One member; `name_size` and `size` to lie about them."""
    path = name.encode() + b"\0"
    words = [1, mode, 0, 0, 1, 0, len(content) if size is None else size, 0, 0, 0, 0]
    words += [len(path) if name_size is None else name_size, 0]
    header = b"070701" + b"".join(b"%08X" % word for word in words) + path
    header += bytes(-len(header) % 4)
    return header + content + bytes(-len(content) % 4)


def archive(**members: bytes) -> bytes:
    """Files by name (_ for /), and the trailer."""
    files = b"".join(member(name.replace("_", "/"), content) for name, content in members.items())
    return files + member("TRAILER!!!")
