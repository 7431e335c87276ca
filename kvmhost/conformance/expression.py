"""Numbers as rows write them: 4096, 0x80, "SW.B12", "COLLECT+3*16", "D22|1"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

_TOKEN = re.compile(r"\s*(?:(0[xX][0-9a-fA-F]+|\d+)|([A-Za-z_][\w.]*)|([-+*|]))")

_OPERATORS = frozenset("+-*|")


class ExpressionError(ValueError):
    """A text that is no number; says which part of it."""


class UnknownSymbol(ExpressionError):
    """A name that stands for nothing here.

    >>> UnknownSymbol("SW.pop_gs", "no symbol SW.pop_gs here").symbol
    'SW.pop_gs'
    """

    def __init__(self, symbol: str, words: str) -> None:
        super().__init__(words)
        self.symbol = symbol


def evaluate(text: str | int, symbols: Mapping[str, int]) -> int:
    """The value of a number or of symbols and numbers joined by + - | and *.

    * binds first, then + and -, then |.  There are no brackets.  The result is not cut to any width.
    Raises ExpressionError, with the nearest names that exist.

    >>> hex(evaluate("X0 + 2*16|3", {"X0": 0x41E000}))
    '0x41e023'
    """
    if isinstance(text, int):
        return text
    if text in symbols:
        return symbols[text]
    words, operators = _parsed(text)
    terms = [word if isinstance(word, int) else _value(word, text, symbols) for word in words]
    for level in ("*", "+-", "|"):
        if len(terms) > 1:
            terms, operators = _fold(terms, operators, level)
    return terms[0]


@cache
def _parsed(text: str) -> tuple[list[int | str], list[str]]:
    """The numbers and symbols, and the operators between them: the same few texts come again and again."""
    tokens = _tokens(text)
    if len(tokens) % 2 == 0:
        raise ExpressionError(f"{text!r}: a number or symbol is missing at the end")
    words: list[int | str] = []
    for place, token in enumerate(tokens):
        if place % 2 and token not in _OPERATORS:
            raise ExpressionError(f"{text!r}: expected + - * or | before {token!r}")
        if place % 2 == 0:
            if token in _OPERATORS:
                raise ExpressionError(f"{text!r}: expected a number or symbol, not {token!r}")
            words.append(int(token, 0) if token[0].isdigit() else token)
    return words, tokens[1::2]


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    place = 0
    stripped = text.rstrip()
    while place < len(stripped):
        match = _TOKEN.match(stripped, place)
        if match is None:
            raise ExpressionError(f"{text!r}: cannot read {stripped[place:]!r}")
        found.append(match[0].strip())
        place = match.end()
    return found


def _value(name: str, text: str, symbols: Mapping[str, int]) -> int:
    if name in symbols:
        return symbols[name]
    import difflib

    near = difflib.get_close_matches(name, symbols, n=4)
    hint = f"; there is {', '.join(near)}" if near else ""
    raise UnknownSymbol(name, f"{text!r}: no symbol {name} here{hint}")


def _fold(terms: list[int], operators: list[str], which: str) -> tuple[list[int], list[str]]:
    kept_terms, kept_operators = [terms[0]], []
    for operator, term in zip(operators, terms[1:], strict=True):
        if operator not in which:
            kept_operators.append(operator)
            kept_terms.append(term)
        elif operator == "*":
            kept_terms[-1] *= term
        elif operator == "|":
            kept_terms[-1] |= term
        else:
            kept_terms[-1] += term if operator == "+" else -term
    return kept_terms, kept_operators
