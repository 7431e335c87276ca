"""The Switcher room: blobs and their symbols, layouts, and a CPU's pair of pages.

Nothing above this room knows where in a page a register lies, and nothing in it
knows what a trap means.
"""

from .blobs import Blob, load
from .errors import SwitcherError
from .gates import default_gate
from .layout import Layout
from .pair import Frame, StatePage, pair_address

__all__ = [
    "Blob",
    "Frame",
    "Layout",
    "StatePage",
    "SwitcherError",
    "default_gate",
    "load",
    "pair_address",
]
