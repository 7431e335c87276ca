"""Generated families: thousands of cases whose expectations are computed from the manual's rules.

Each file is one rule, worked out by its own arithmetic; none looks at an engine, at the model or at the
product.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..expand import Family

FAMILIES: Mapping[str, Family] = {}
