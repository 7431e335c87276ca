"""What a person gets who names no Switcher, no number, no image, or asks something of what is closed."""

import pytest
from host.native_guest import BY_NAME, native

from kvmhost.host import KvmhostError, Machine
from kvmhost.host.guest_trap import GuestTrap
from kvmhost.host.memory import VmMemory
from kvmhost.switcher.errors import SwitcherError


@pytest.mark.parametrize("cpus", ["x", None, 0, 17, 1.5])
def test_a_number_of_vcpus_that_is_none(cpus: object) -> None:
    with pytest.raises(KvmhostError, match="vCPUs are not possible") as error:
        Machine(cpus=cpus)  # type: ignore[arg-type]
    assert "range" in error.value.next_step


@pytest.mark.parametrize("switcher", [None, 7, ""])
def test_a_switcher_that_is_none(switcher: object) -> None:
    with pytest.raises(SwitcherError, match=r"no such Switcher|cannot load"):
        Machine(switcher=switcher)  # type: ignore[arg-type]


def test_everything_says_what_it_is(memory: VmMemory) -> None:
    guest = native(memory, BY_NAME["4.1"])
    assert repr(guest) == "<Guest native: 4 MiB, abi 4.1, alive>"
    guest.frame.eax, guest.frame.eip = 0x1234, 0x100000
    assert "eax=0x1234" in repr(guest.frame) and "eip=0x100000" in repr(guest.frame)

    class Vcpu:
        class mailbox:
            cr2 = 0

    assert repr(GuestTrap(guest, Vcpu(), 14)) == "<GuestTrap PAGE_FAULT of native at 0x00100000>"  # type: ignore[arg-type]


@pytest.mark.lab
def test_what_is_closed_says_so() -> None:
    with Machine(2 << 20) as machine:
        guest = machine.add_guest(name="late")
        assert repr(machine) == "<Machine open: 1 vCPUs, 1 Guests>"
        guest.post(1)
    assert repr(machine) == "<Machine closed: 1 vCPUs, 1 Guests>"
    assert repr(guest).startswith("<Guest late")
    with pytest.raises(KvmhostError, match="closed"):
        guest.post(1)
