"""The pages that shadow directories and tables are made of.

Each Guest has its own pool inside its own block, so one Guest's appetite never costs another a page.  The
pool's two words live in the Guest's state in VM memory: how far it has ever been used, and a list of pages
given back, linked through their first dword.  Forgetting everything is therefore two stores.
"""

from typing import Any

from kvmhost._native import ffi, lib
from kvmhost.host.memory import VmMemory
from kvmhost.host.page_bits import PAGE

_ZERO = bytes(PAGE)

# What one instruction can need at once: a directory for each GiB, two stack pages, and two pages each for its
# code, its source and its destination.  A pool smaller than that could flush for ever and never get on.
LEAST_PAGES = 12


class PoolEmpty(Exception):
    """No page is left; the owner flushes its tables and starts again. Never seen outside the paging files."""


class PagePool:
    """Pages of VM memory at `block` + GUEST_POOL_OFFSET, at most `pages` of them.

    state: cdata `struct kvmhost_guest *`, whose pool words are taken over and reset.
    """

    def __init__(self, memory: VmMemory, block: int, state: Any, pages: int) -> None:
        if not LEAST_PAGES <= pages <= (lib.GUEST_BLOCK_SIZE - lib.GUEST_POOL_OFFSET) // PAGE:
            raise ValueError(f"a pool of {pages} pages")
        self._u8 = memory.u8
        self._u32 = memory.u32
        self._block = block
        self._state = state
        self.start: int = block + lib.GUEST_POOL_OFFSET
        self._end: int = lib.GUEST_POOL_OFFSET + pages * PAGE
        self.reset()

    def reset(self) -> None:
        """All pages are free again, at once. Whoever calls this has already forgotten every entry."""
        self._state.pool_next = lib.GUEST_POOL_OFFSET
        self._state.pool_free = 0

    def allocate(self) -> int:
        """VM-physical address of a zeroed page. Raises PoolEmpty."""
        offset: int = self._state.pool_free
        if offset:
            self._state.pool_free = self._u32[(self._block + offset) // 4]
        else:
            offset = self._state.pool_next
            if offset >= self._end:
                raise PoolEmpty
            self._state.pool_next = offset + PAGE
        page = self._block + offset
        ffi.memmove(self._u8 + page, _ZERO, PAGE)
        return page

    def free(self, page: int) -> None:
        """Take back a page to which no entry leads any more."""
        self._u32[page // 4] = self._state.pool_free
        self._state.pool_free = page - self._block

    def in_use(self) -> set[int]:
        """VM-physical addresses of all pages handed out."""
        used = set(range(self.start, self._block + self._state.pool_next, PAGE))
        offset = self._state.pool_free
        while offset:
            used.discard(self._block + offset)
            offset = self._u32[(self._block + offset) // 4]
        return used
