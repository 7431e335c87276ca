"""What ends an instruction of the model: a fault of the machine, or that the model does not know it."""

from __future__ import annotations

DE, DB, BP, OF, BR, UD, NM, DF, TS, NP, SS, GP, PF = 0, 1, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14
CONTRIBUTORY = frozenset({DE, TS, NP, SS, GP})
#: Vectors that push an error code (SDM vol. 3, "Error Code"; 21, 29 and 30 came later).
WITH_CODE = frozenset({8, 10, 11, 12, 13, 14, 17, 21, 29, 30})


class Fault(Exception):
    """An exception of the machine.  error is None where none is pushed; cr2 belongs to a page fault."""

    def __init__(self, vector: int, error: int | None = None, cr2: int | None = None) -> None:
        super().__init__(f"vector {vector}, error {error}")
        self.vector = vector
        self.error = error
        self.cr2 = cr2


class Shutdown(Exception):
    """A fault on the way to the handler of a double fault."""


class Unknown(Exception):
    """Something that the model has no rule for: it then has no opinion."""


def second(first: int, then: int) -> int | None:
    """What two exceptions come to if the second one happens on the way to the first one's handler.

    DF, or `then` if the two are handled one after the other; None is a shutdown.  SDM vol. 3, "Interrupt
    8—Double Fault Exception (#DF)".

    >>> second(GP, NP), second(PF, PF), second(GP, PF), second(UD, GP), second(DF, GP)
    (8, 8, 14, 13, None)
    """
    if first == DF:
        return None if then in CONTRIBUTORY or then == PF else then
    if first in CONTRIBUTORY and then in CONTRIBUTORY:
        return DF
    if first == PF and (then in CONTRIBUTORY or then == PF):
        return DF
    return then
