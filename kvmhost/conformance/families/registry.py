"""The families by the names that rows use for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ..row import CaseSpec, Row
from . import rights, sweeps, trips, vectors

FAMILIES: Mapping[str, Callable[[Row], Iterator[CaseSpec]]] = {
    "pgf-006": rights.truth_table,
    "prp-footprint": trips.footprint,
    "prp-fpu": trips.fpus,
    "prp-guest": trips.guests,
    "prp-host": trips.hosts,
    "sec-003": sweeps.state_page,
    "sec-007": sweeps.switcher_corner,
    "sec-014": sweeps.host_memory,
    "vec-external": vectors.external,
    "vec-matrix": vectors.software,
}
