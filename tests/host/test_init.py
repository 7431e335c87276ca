"""LGUEST_INIT: what is found in the struct of each generation, what is written there, and who is refused."""

import pytest
from host.native_guest import BY_NAME, DATA_AT, MEMORY, PAGE_OFFSET, call, fill_data, native, started

from kvmhost._native import lib
from kvmhost.host import hypercalls
from kvmhost.host.abi import ABIS, DEFAULT, Abi
from kvmhost.host.errors import GuestBroke
from kvmhost.host.guest import Guest
from kvmhost.host.lguest_data import layout_of
from kvmhost.host.memory import VmMemory

INIT = lib.LHCALL_LGUEST_INIT
every_generation = pytest.mark.parametrize("abi", ABIS, ids=lambda abi: abi.name)


def init(guest: Guest, address: int = DATA_AT) -> None:
    call(guest, INIT, address)


def refused(guest: Guest, address: int = DATA_AT) -> GuestBroke:
    with pytest.raises(GuestBroke) as broke:
        init(guest, address)
    assert broke.value.advice
    return broke.value


@every_generation
def test_what_the_host_reads_and_writes(memory: VmMemory, abi: Abi) -> None:
    guest = native(memory, abi)
    guest.tsc_khz = 2_000_000
    guest.set_entry(0x100000)
    words = fill_data(guest, abi)
    init(guest)
    assert guest.data is not None
    assert (guest.state.data, guest.state.kernel_address) == (DATA_AT, PAGE_OFFSET)
    window = (0xC1000010, 0) if abi.name == "4.1" else (0xC1000008, 0xC1000010)
    assert (guest.state.noirq_start, guest.state.noirq_end) == window
    assert (words.reserve_mem, words.tsc_khz) == (0x400000, 2_000_000)
    assert words.time_sec > 1_700_000_000
    if abi.first < (3, 1, 0):
        assert words.pgdir == guest.state.pgdir[0] == MEMORY - 0x2000 - 0x1000
    assert words.noirq_iret == 0xC1000010 if abi.name == "4.1" else words.noirq_end == 0xC1000010


@every_generation
def test_it_may_end_with_memory_but_not_behind_it(memory: VmMemory, abi: Abi) -> None:
    guest = native(memory, abi)
    last = MEMORY - layout_of(abi.data).size
    fill_data(guest, abi, last)
    init(guest, last)
    assert guest.state.data == last
    other = native(memory, abi)
    reason = refused(other, last + 4)
    assert "lguest_data" in reason.reason and abi.arguments[0].upper() in reason.advice


def test_it_may_lie_at_physical_0(memory: VmMemory) -> None:
    guest = native(memory, BY_NAME["3.1"])
    fill_data(guest, BY_NAME["3.1"], 0)
    assert guest.state.data == lib.NO_DATA
    init(guest, 0)
    assert guest.state.data == 0 and guest.data is not None
    with pytest.raises(GuestBroke, match="twice"):
        init(guest, 0)


@every_generation
@pytest.mark.parametrize("address", [DATA_AT + 2, MEMORY, 0xFFFFFFFC, 0xFFFFFFFF])
def test_addresses_that_cannot_be(memory: VmMemory, abi: Abi, address: int) -> None:
    guest = native(memory, abi)
    fill_data(guest, abi)
    assert f"{address:#010x}" in refused(guest, address).reason
    assert guest.data is None


@every_generation
@pytest.mark.parametrize(
    "fields",
    [{"kernel_address": 0}, {"kernel_address": 0xC0001000}, {"syscall_vec": 0x40}, {"syscall_vec": 0}],
    ids=str,
)
def test_a_struct_of_no_layout(memory: VmMemory, abi: Abi, fields: dict[str, int]) -> None:
    guest = native(memory, abi)
    fill_data(guest, abi, **fields)
    assert "no known layout" in refused(guest).reason


def test_a_ring_that_is_not_all_free(memory: VmMemory) -> None:
    guest = native(memory, BY_NAME["3.1"])
    fill_data(guest, BY_NAME["3.1"]).hcall_status[63] = 0
    assert "hcall_status" in refused(guest).advice


@pytest.mark.parametrize("told", ABIS, ids=lambda abi: abi.name)
@pytest.mark.parametrize("real", ABIS, ids=lambda abi: abi.name)
def test_what_was_told_is_held_against_what_is_shown(memory: VmMemory, told: Abi, real: Abi) -> None:
    guest = native(memory, told)
    fill_data(guest, real)
    guest.frame.eax = INIT

    for register in ("ebx", "ecx", "edx", "esi"):
        setattr(guest.frame, register, 0x12345679)
    setattr(guest.frame, real.arguments[0], DATA_AT)
    direct = hypercalls.direct_call(guest)
    if told.data == real.data:
        hypercalls.perform(guest, direct)
        assert guest.abi is told
        return
    with pytest.raises(GuestBroke) as broke:
        hypercalls.perform(guest, direct)
    assert f"taken for {told.releases}" in broke.value.reason
    assert f"--abi {real.name}" in broke.value.advice


@pytest.mark.parametrize("real", ABIS, ids=lambda abi: abi.name)
def test_where_nobody_told_it_is_found_out_if_the_start_was_right(memory: VmMemory, real: Abi) -> None:
    guest = native(memory)
    assert guest.abi is DEFAULT
    fill_data(guest, real)
    guest.frame.eax = INIT
    guest.frame.ebx = guest.frame.edx = 0x12345679
    setattr(guest.frame, real.arguments[0], DATA_AT)
    direct = hypercalls.direct_call(guest)
    if real.tables is DEFAULT.tables:
        hypercalls.perform(guest, direct)
        assert guest.data is not None and guest.abi.data == real.data
        return
    with pytest.raises(GuestBroke) as broke:
        hypercalls.perform(guest, direct)
    assert "does not say what it is" in broke.value.reason and f"--abi {real.name}" in broke.value.advice


def test_devices_of_another_bus_contradict(memory: VmMemory) -> None:
    guest = native(memory)
    guest.bus = object()  # type: ignore[assignment]
    fill_data(guest, BY_NAME["4.1"])
    assert "--abi 4.1" in refused(guest).advice


@every_generation
def test_nothing_but_init_before_init(memory: VmMemory, abi: Abi) -> None:
    for number in sorted(abi.calls - {INIT}):
        with pytest.raises(GuestBroke, match="before LGUEST_INIT"):
            call(native(memory, abi), number)


def test_started(memory: VmMemory) -> None:
    """The helper that the other tests begin with does what it says."""
    assert started(memory, BY_NAME["2.6.31"]).data is not None
