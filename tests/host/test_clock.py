"""The thread that knows what time it is: it outlives what it calls, and a replaced alarm is gone."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from kvmhost._native import ffi, lib
from kvmhost.host.clock import Clock, start_thread
from kvmhost.host.cpu import Cpu
from kvmhost.host.errors import KvmhostError
from kvmhost.host.guest import Guest


def test_a_call_that_raises_is_told_and_the_next_still_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_type))
    rang = threading.Event()

    def bad() -> None:
        raise ZeroDivisionError

    with Clock() as clock:
        clock.after(0, bad)
        clock.after(0, rang.set)
        assert rang.wait(30)
    assert told == [ZeroDivisionError]


def test_a_clock_event_that_was_replaced_on_its_way_is_nobodys() -> None:
    """The clock thread may have taken an alarm out of its heap just before SET_CLOCKEVENT replaces it."""
    calls: list[Any] = []

    def after(_: float, call: Any) -> SimpleNamespace:
        calls.append(call)
        return SimpleNamespace(cancel=lambda: None)

    guest = bare_guest(SimpleNamespace(after=after))
    posted: list[int] = []
    guest.post = posted.append
    guest.set_clock(1000)
    guest.set_clock(2000)
    calls[0]()
    assert posted == []
    calls[1]()
    assert posted == [0]


def bare_guest(clock: Any) -> Any:
    guest: Any = Guest.__new__(Guest)
    guest.machine = SimpleNamespace(clock=clock)
    guest._alarm, guest._alarms, guest._rings_at, guest._alarm_lock = None, 0, 0, threading.Lock()
    guest.irqs_address = ffi.new("uint32_t *")
    guest.cpu = None
    return guest


@pytest.fixture
def cpu() -> Iterator[Any]:
    """A vCPU with nothing but its alarm clock; what it asks for shows in the mailbox."""
    cpu: Any = object.__new__(Cpu)
    cpu.mailbox = ffi.new("struct kvmhost_mailbox *")
    cpu.c = ffi.new("struct kvmhost_cpu *", {"mailbox": cpu.mailbox, "kick_fd": -1})
    cpu.alarm = lib.kvmhost_alarm_make(cpu.c)
    assert cpu.alarm != ffi.NULL
    yield cpu
    lib.kvmhost_alarm_free(cpu.alarm)


def soon(true: Callable[[], object]) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.0005)
    return False


MINUTE = 60_000_000_000


def test_a_clock_event_rings_where_the_guest_is(cpu: Any) -> None:
    guest = bare_guest(None)
    guest.move(cpu)
    guest.set_clock(1)
    assert soon(lambda: cpu.mailbox.attention)
    assert (guest.irqs_address[0], cpu.mailbox.attention) == (1, lib.ATTENTION_EVENT)
    assert cpu.c.posts == 1
    assert cpu.ring(guest.irqs_address, 0) == 0, "it rang, so none is to come"


def test_a_clock_event_is_replaced_and_cancelled(cpu: Any) -> None:
    guest = bare_guest(None)
    guest.move(cpu)
    guest.set_clock(MINUTE)
    guest.set_clock(2 * MINUTE)
    assert cpu.ring(guest.irqs_address, 0) > time.monotonic_ns() + MINUTE
    guest.set_clock(MINUTE)
    guest.set_clock(0)
    assert cpu.ring(guest.irqs_address, 0) == 0
    assert (guest.irqs_address[0], cpu.c.posts) == (0, 0)


def test_a_clock_event_moves_with_its_guest(cpu: Any) -> None:
    """Off the vCPU the machine's clock has it, on another one that one's; and it rings once."""
    with Clock() as clock:
        guest = bare_guest(clock)
        guest.set_clock(MINUTE)
        assert guest._alarm is not None
        guest.move(cpu)
        assert guest._alarm is None
        guest.move(None)
        assert guest._alarm is not None
        assert cpu.ring(guest.irqs_address, 0) == 0, "it left nothing behind"
        rang = threading.Event()
        guest.post = lambda irq: rang.set()
        guest.move(cpu)
        guest.set_clock(1_000_000)
        guest.move(None)
        # Either the vCPU's clock was quick enough to raise it, or the machine's does.
        assert soon(lambda: rang.is_set() or guest.irqs_address[0] == 1)
        assert guest._alarm is None


def test_a_second_look_is_ordered_again_even_if_the_first_came_before_the_order_returned(cpu: Any) -> None:
    """The alarm's thread may be that quick, or the vCPU's that slow: a lost look is a lost interrupt."""
    for times in range(1, 51):
        cpu.look_again(0)
        assert soon(lambda: lib.kvmhost_take(cpu.c)), f"look {times} never came"


def test_a_look_and_a_clock_event_do_not_wait_for_each_other(cpu: Any) -> None:
    guest = bare_guest(None)
    guest.move(cpu)
    guest.set_clock(MINUTE)
    cpu.look_again(1)
    assert soon(lambda: lib.kvmhost_take(cpu.c))
    assert guest.irqs_address[0] == 0
    cpu.look_again(MINUTE)
    guest.set_clock(1)
    assert soon(lambda: lib.kvmhost_take(cpu.c))
    assert guest.irqs_address[0] == 1


def test_an_earlier_look_is_not_put_off(cpu: Any) -> None:
    cpu.look_again(20_000_000)
    cpu.look_again(MINUTE)
    assert soon(lambda: lib.kvmhost_take(cpu.c))


def test_a_thread_that_cannot_be_had_is_told_with_what_limits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(KvmhostError, match="the thread one cannot be started") as caught:
        start_thread(lambda: None, "one")
    assert "ulimit -u" in caught.value.next_step
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_alarms_that_were_cancelled_do_not_pile_up() -> None:
    """A Guest may set its clock again and again, and a program may run it a little at a time."""
    rang: list[str] = []
    with Clock() as clock:
        for number in range(5000):
            clock.after(3600.0 + number % 7, lambda: rang.append("cancelled")).cancel()
            if number == 2500:
                kept = [clock.after(3600.0, lambda: rang.append("kept")) for _ in range(300)]
        assert len(clock._alarms) < 1000
        assert {id(alarm) for alarm in kept} <= {id(alarm) for alarm in clock._alarms}
        done = threading.Event()
        clock.after(0.0, done.set)
        assert done.wait(30)
    assert rang == []
