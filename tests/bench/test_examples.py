"""The examples in docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

import kvmhost.bench

MODULES = [
    found.name
    for found in pkgutil.walk_packages(kvmhost.bench.__path__, "kvmhost.bench.")
    if not found.name.endswith(".worker")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


def test_there_are_some() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = [importlib.import_module(name) for name in MODULES]
    assert sum(len(test.examples) for module in modules for test in finder.find(module)) > 10
