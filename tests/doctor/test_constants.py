"""The generated numbers against those of the KVM API's documentation, and against their type stub."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kvmhost.doctor
from kvmhost.doctor import _constants as c

KVMIO = 0xAE


def request(direction: int, number: int, size: int) -> int:
    """_IOC(direction, KVMIO, number, size), as <asm-generic/ioctl.h> defines it."""
    return direction << 30 | size << 16 | KVMIO << 8 | number


REQUESTS = {
    "KVM_CREATE_VM": request(0, 0x01, 0),
    "KVM_CHECK_EXTENSION": request(0, 0x03, 0),
    "KVM_GET_SUPPORTED_CPUID": request(3, 0x05, 8),
    "KVM_SET_USER_MEMORY_REGION": request(1, 0x46, 32),
    "KVM_SET_IDENTITY_MAP_ADDR": request(1, 0x48, 8),
    "KVM_CREATE_IRQCHIP": request(0, 0x60, 0),
    "KVM_SET_GSI_ROUTING": request(1, 0x6A, 8),
    "KVM_IRQFD": request(1, 0x76, 32),
    "KVM_RUN": request(0, 0x80, 0),
    "KVM_GET_REGS": request(2, 0x81, 18 * 8),
    "KVM_SET_SREGS": request(1, 0x84, 0x138),
    "KVM_SET_MSRS": request(1, 0x89, 8),
    "KVM_SET_CPUID2": request(1, 0x90, 8),
    "KVM_NMI": request(0, 0x9A, 0),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests(name: str) -> None:
    assert getattr(c, name) == REQUESTS[name]


def test_layouts() -> None:
    assert (c.REGS_SIZE, c.REGS_EIP, c.REGS_EFLAGS) == (144, 128, 136)
    assert (c.SREGS_SIZE, c.SEGMENT_SIZE, c.SREGS_GDT) == (312, 24, 8 * 24)
    assert (c.RUN_EXIT_REASON, c.RUN_IO_PORT, c.RUN_IO_DATA_OFFSET) == (8, 34, 40)
    assert (c.CPUID_SIZE, c.CPUID_ENTRY_SIZE, c.ROUTE_SIZE, c.IRQFD_SIZE) == (8, 40, 48, 32)
    assert (c.TSS_SIZE, c.TSS_ESP0, c.TSS_SS0) == (104, 4, 8)


def test_the_type_stub_names_exactly_what_the_build_wrote() -> None:
    folder = Path(kvmhost.doctor.__file__).parent
    stub = ast.parse((folder / "_constants.pyi").read_text())
    named = {
        node.target.id
        for node in stub.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    # pytest, which looks after the package of its plugin, adds names of its own that begin with @.
    assert named == {name for name in vars(c) if not name.startswith(("__", "@"))}
