"""The examples in the docstrings of the command line and of the privileges, run as they stand."""

import doctest
import importlib
import pkgutil

import pytest

import kvmhost.cli

MODULES = [f"kvmhost.cli.{found.name}" for found in pkgutil.iter_modules(kvmhost.cli.__path__)]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", [*MODULES, "kvmhost.launcher.privileges"])
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name), optionflags=FLAGS).failed == 0


def test_there_are_examples_to_run() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    names = ["kvmhost.launcher.privileges", "kvmhost.cli.failures", "kvmhost.cli.commentary"]
    modules = [importlib.import_module(name) for name in names]
    counts = [sum(len(test.examples) for test in finder.find(module)) for module in modules]
    assert min(counts) >= 1
