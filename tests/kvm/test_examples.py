"""Every example in the kvm room's docstrings runs: with what it mentions (kvm, vm, vcpu) freshly made for it.

Examples that mention none of the three need no KVM and run everywhere.  A docstring of something public
without an example is a failure too.
"""

import ast
import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from contextlib import ExitStack
from types import ModuleType

import pytest

import kvmhost.kvm as room

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules() -> list[ModuleType]:
    return [
        importlib.import_module(f"kvmhost.kvm.{found.name}") for found in pkgutil.iter_modules(room.__path__)
    ]


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [test for module in modules() for test in finder.find(module, module.__name__) if test.examples]


def mentioned(test: doctest.DocTest) -> set[str]:
    tree = ast.parse("".join(example.source for example in test.examples))
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def needs_kvm(test: doctest.DocTest) -> bool:
    return bool(mentioned(test) & {"kvm", "vm", "vcpu", "Kvm"})


def run(test: doctest.DocTest) -> None:
    """Run one docstring's examples, and leave nothing open behind."""
    names = mentioned(test)
    with ExitStack() as stack:
        if needs_kvm(test):
            kvm = stack.enter_context(room.Kvm())
            vm = stack.enter_context(kvm.create_vm())
            test.globs.update(kvm=kvm, vm=vm)
            if "vcpu" in names and "create_vcpu(0) as vcpu" not in (test.docstring or ""):
                test.globs["vcpu"] = vm.create_vcpu(0)
        for name in names & set(room.__all__):
            test.globs[name] = getattr(room, name)
        said: list[str] = []
        doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=said.append)
        assert not said, "".join(said)


@pytest.mark.parametrize(
    "test", [test for test in examples() if not needs_kvm(test)], ids=lambda test: test.name
)
def test_example_without_kvm(test: doctest.DocTest) -> None:
    run(test)


@pytest.mark.lab
def test_examples_with_kvm() -> None:
    failed = []
    tests = [test for test in examples() if needs_kvm(test)]
    for test in tests:
        try:
            run(test)
        except Exception as error:
            failed.append(f"{test.name}: {error}")
    assert len(tests) > 60
    assert not failed, "\n".join(failed)


def public() -> Iterator[tuple[str, object]]:
    """Everything the room exports, and every public method, property and constructor of it."""
    for name in room.__all__:
        thing = getattr(room, name)
        yield name, thing
        if isinstance(thing, type):
            for owner in thing.__mro__:
                if owner.__module__.startswith("kvmhost."):
                    members = vars(owner).items()
                    yield from (
                        (f"{name}.{member}", one) for member, one in members if is_public(member, one)
                    )


def is_public(name: str, member: object) -> bool:
    return not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))


def test_every_public_docstring_has_an_example() -> None:
    assert sorted(name for name, thing in public() if ">>>" not in (inspect.getdoc(thing) or "")) == []
