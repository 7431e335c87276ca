"""The thread that knows what time it is: it outlives what it calls, and a replaced alarm is gone."""

import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest

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

    guest: Any = Guest.__new__(Guest)
    guest.machine = SimpleNamespace(clock=SimpleNamespace(after=after))
    guest._alarm, guest._alarms, guest._alarm_lock = None, 0, threading.Lock()
    posted: list[int] = []
    guest.post = posted.append
    guest.set_clock(1000)
    guest.set_clock(2000)
    calls[0]()
    assert (posted, guest.clock_armed) == ([], True)
    calls[1]()
    assert (posted, guest.clock_armed) == ([0], False)


def test_a_second_look_is_ordered_again_even_if_the_first_came_before_the_order_returned() -> None:
    """The clock's thread may be that quick, or the vCPU's that slow: a lost look is a lost interrupt."""
    posts: list[int] = []
    cpu: Any = object.__new__(Cpu)
    cpu._looks_again = False
    cpu.post = posts.append
    cpu.clock = SimpleNamespace(after=lambda seconds, call: [call()])
    cpu.look_again(0.001)
    cpu.look_again(0.001)
    assert len(posts) == 2


def test_a_thread_that_cannot_be_had_is_told_with_what_limits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(KvmhostError, match="the thread one cannot be started") as caught:
        start_thread(lambda: None, "one")
    assert "ulimit -u" in caught.value.next_step
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
