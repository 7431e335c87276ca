"""The examples in the doctor's docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import kvmhost.doctor

MODULES = [name for _, name, _ in pkgutil.iter_modules(kvmhost.doctor.__path__, "kvmhost.doctor.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    modules = [importlib.import_module(name) for name in MODULES]
    shown = {
        test.name for module in modules for test in finder.find(module, module.__name__) if test.examples
    }
    wanted = ("examination.examine", "examination.native_verdict", "facts.gather", "advice.opening")
    assert shown >= {f"kvmhost.doctor.{name}" for name in wanted}
