"""System calls are counted by the kernel: every one but KVM_RUN, of the one thread that is watched."""

import os
import threading

import pytest

from kvmhost.bench import watched


@pytest.mark.parametrize("many", [0, 1, 17])
def test_each_call_is_counted(many: int) -> None:
    assert watched.least(lambda: [os.getppid() for _ in range(many)]) == many


def test_what_a_run_takes_anyway_is_not_counted() -> None:
    def work(loops: int) -> None:
        os.getppid()
        for _ in range(loops):
            os.getppid()
            os.getppid()

    assert watched.each(work) == 2


def test_one_call_in_many_operations_is_not_lost() -> None:
    """Rounded up: a call that only some operations make is a call."""
    assert watched.each(lambda loops: os.getppid() if loops > 10 else None) == 1


def test_other_threads_are_not_watched() -> None:
    """The one that asks makes calls all the time, and they are not the watched one's."""
    over = threading.Event()

    def busy() -> None:
        while not over.is_set():
            os.getppid()

    other = threading.Thread(target=busy)
    other.start()
    try:
        assert watched.least(lambda: None) == 0
    finally:
        over.set()
        other.join()


def test_what_the_work_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        watched.system_calls(lambda: 1 // 0)
