"""The Switchers that rows are run with: the two references, the product's two, and perhaps somebody else's.

Each is text and offsets, nothing more: layer L3 takes the built files as they lie beside the package, exactly
as it takes a foreign one, and knows nothing of their sources.
"""

from __future__ import annotations

from pathlib import Path

from .errors import SelectionError
from .reference import NAMES
from .reference import image as reference_image
from .switcher_image import SwitcherImage, SwitcherImageError
from .switcher_image import load as load_image

BUILT = Path(__file__).parent.parent / "data" / "switcher"
OFFSETS = (
    "--offsets names a JSON file with frame, descriptors, symbols, default_idt_entries and boundaries, as "
    f"{BUILT / 'hardened.json'} has them"
)


def under_test(foreign: tuple[Path, Path] | None = None) -> dict[str, SwitcherImage]:
    """The image of every layer; `foreign` is text and offsets of a Switcher for the layer L3-foreign.

    Raises SelectionError if the foreign one cannot be used.
    """
    images = {f"L2-{name}": reference_image(name) for name in NAMES}
    for name in NAMES:
        images[f"L3-{name}"] = load_image(BUILT / f"{name}.bin", BUILT / f"{name}.json", f"product-{name}")
    if foreign is not None:
        try:
            images["L3-foreign"] = load_image(*foreign)
        except SwitcherImageError as error:
            raise SelectionError(
                f"{foreign[0]} cannot be put on the stage", cause=str(error), next_step=OFFSETS
            ) from None
    return images
