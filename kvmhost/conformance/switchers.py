"""The Switchers that rows are run with: the two references, the product's two, and perhaps somebody else's.

Each is text and offsets, nothing more: layer L3 takes the built files as they lie beside the package, exactly
as it takes a foreign one, and knows nothing of their sources.
"""

from __future__ import annotations

from pathlib import Path

from .reference import NAMES
from .reference import image as reference_image
from .switcher_image import SwitcherImage
from .switcher_image import load as load_image

FOREIGN = "L3-foreign"
BUILT = Path(__file__).parent.parent / "data" / "switcher"


def under_test(foreign: SwitcherImage | None = None) -> dict[str, SwitcherImage]:
    """The image of every layer; `foreign` is the one of the layer L3-foreign, if there is to be one."""
    images = {f"L2-{name}": reference_image(name) for name in NAMES}
    for name in NAMES:
        images[f"L3-{name}"] = load_image(BUILT / f"{name}.bin", BUILT / f"{name}.json", f"product-{name}")
    return images if foreign is None else {**images, FOREIGN: foreign}
