"""The examples in the Launcher's docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

import kvmhost.launcher

# machine needs a KVM and privileges changes who we are; each has tests of its own.
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(kvmhost.launcher.__path__, "kvmhost.launcher.")
    if name.rpartition(".")[2] not in ("machine", "privileges")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    result = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert result.failed == 0
