"""Generated families: thousands of cases whose expectations are computed from the manual's rules.

Each file is one rule, worked out by its own arithmetic; none looks at an engine, at the model or at the
product.
"""

from __future__ import annotations

from typing import Any

from ..row import NOTHING, CaseSpec, Row


def spec(row: Row, name: str, start: str, **told: Any) -> CaseSpec:
    """A CaseSpec as a file would give it: what is not told is empty, or the row's."""
    empty: dict[str, Any] = {
        **dict.fromkeys(("code", "gdt", "idt", "pages", "memory", "watch", "any_of"), ()),
        **dict.fromkeys(("cpu", "tss", "frame", "event", "deviation", "layer"), NOTHING),
        "kind": row.kind,
        "world": "pair" if start == "trip" else "L1",
        "paging": "legacy",
        "layers": row.layers,
        "why": row.why,
    }
    requires = tuple(dict.fromkeys((*row.requires, *told.pop("requires", ()))))
    return CaseSpec(name=name, start=start, requires=requires, **{**empty, **told})
