"""NMIs at every boundary of a world switch, and in the Guest, under both Switchers (conformance 1.19)."""

from collections.abc import Iterator

import pytest
from host import tiny_guest as tiny
from host.stepping import TRAPPING, Stepper

from kvmhost._native import lib
from kvmhost.host import Machine, Trap
from kvmhost.kvm import ExitIo, ExitShutdown

pytestmark = pytest.mark.lab

NMI_MESSAGE = 0x400  # delivery mode 4 of an MSI


def counted(stepper: Stepper) -> int:
    box = stepper.cpu.mailbox
    return int(box.nmi_host + box.nmi_switcher)


@pytest.fixture
def stepper(request: pytest.FixtureRequest) -> Iterator[Stepper]:
    with Machine(8 << 20, switcher=request.param) as machine:
        yield Stepper(machine, tiny.boot(machine, TRAPPING))


def places(stepper: Stepper) -> list[tuple[int, int]]:
    """(step, address) of every boundary at ring 0 of one undisturbed switch."""
    return [(n, at) for n, at in enumerate(stepper.trace()) if not in_guest(at)]


def in_guest(address: int) -> bool:
    """The loop of TRAPPING; the Host's own text lies at like addresses but its loop does not."""
    start = tiny.CODE_AT + len(tiny.init())
    return start <= address < tiny.CODE_AT + len(TRAPPING)


def disturb(stepper: Stepper, step: int) -> object:
    """Send an NMI in front of one instruction and run on to the end."""
    stepper.step_to(step)
    stepper.vcpu.nmi()
    return stepper.finish()


@pytest.mark.parametrize("stepper", ["hardened"], indirect=True)
def test_hardened_loses_no_nmi_at_any_boundary(stepper: Stepper) -> None:
    boundaries = places(stepper)
    assert len(boundaries) >= 60
    undisturbed = stepper.result()
    assert undisturbed["trapnum"] == lib.HYPERCALL_VECTOR
    for step, address in boundaries:
        before = counted(stepper)
        left = disturb(stepper, step)
        where = stepper.machine.blob.locate(address)
        assert isinstance(left, ExitIo), where
        assert left.port == lib.PORT_LEAVE, where
        assert counted(stepper) == before + 1, where
        assert stepper.result() == undisturbed, where


@pytest.mark.parametrize("stepper", ["seed"], indirect=True)
def test_seed_dies_at_exactly_one_boundary(stepper: Stepper) -> None:
    """B12, after LGDT and before LIDT: the hazard of 2007 (conformance NMI-006)."""
    boundaries = places(stepper)
    undisturbed = stepper.result()
    fatal = stepper.machine.blob.address("B12_load_guest_idt")
    for step, address in boundaries:
        where = stepper.machine.blob.locate(address)
        left = disturb(stepper, step)
        if address == fatal:
            assert isinstance(left, ExitShutdown), where
            stepper.cpu.start()
            continue
        assert isinstance(left, ExitIo), where
        assert left.port == lib.PORT_LEAVE, where
        assert stepper.result() == undisturbed, where


@pytest.mark.parametrize(
    ("stepper", "guest_sees_host"), [("seed", False), ("hardened", True)], indirect=["stepper"]
)
def test_nmi_in_the_guest(stepper: Stepper, guest_sees_host: bool) -> None:
    """hardened takes it to the Host as trap 2; seed drops it and the Guest goes on to its own trap."""
    trace = stepper.trace()
    undisturbed = stepper.result()
    steps = [n for n, at in enumerate(trace) if in_guest(at)]
    assert steps
    for step in steps:
        before = counted(stepper)
        disturb(stepper, step)
        if guest_sees_host:
            assert stepper.guest.frame.trapnum == Trap.NMI
            assert stepper.guest.frame.eip == trace[step]
            assert counted(stepper) == before + 1
        else:
            assert stepper.result() == undisturbed
            assert counted(stepper) == before


def test_nmis_are_masked_until_the_hosts_handler_is_over() -> None:
    """A second NMI, sent with the first still on its way, is taken right after and never nested."""
    with Machine(8 << 20) as machine:
        stepper = Stepper(machine, tiny.boot(machine, TRAPPING))
        trace = stepper.trace()
        step = next(n for n, at in enumerate(trace) if in_guest(at))
        before = counted(stepper)
        stepper.step_to(step)
        stepper.vcpu.nmi()
        stepper.vcpu.nmi()
        left = stepper.finish()
        assert isinstance(left, ExitIo)
        assert stepper.guest.frame.trapnum == Trap.NMI
        assert counted(stepper) == before + 2
        assert stepper.cpu.mailbox.nmi_switcher == 0, "both were the Host's own vector 2"
        assert not stepper.vcpu.events().nmi.masked


def test_python_sees_every_nmi_of_a_spinning_guest() -> None:
    with Machine(8 << 20) as machine:
        guest = tiny.boot(machine, tiny.init() + tiny.forever(tiny.increment(0x4000)))
        wanted = 30
        seen = []

        def send() -> None:
            """Again and again: one that finds the vCPU outside the Guest is counted at ring 0 alone."""
            if len(seen) < wanted:
                machine.vm.signal_msi(0xFEE00000, NMI_MESSAGE)
                machine.clock.after(0.005, send)

        @guest.on(Trap.NMI)
        def count(trap) -> None:
            trap.default()
            seen.append(trap.regs.cs & 3)
            if len(seen) == wanted:
                machine.stop()

        machine.clock.after(0.05, send)
        guest.run(timeout=120)
        assert seen == [1] * wanted
        statistics = machine.statistics()
        assert statistics.traps[Trap.NMI] == wanted
        assert statistics.nmis >= wanted
