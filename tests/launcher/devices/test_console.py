"""What is printed comes out, whole and in order; what is typed goes in, and waits for whoever reads it."""

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from launcher.devices.driver import Buffer, Driver, FakeGuest

from kvmhost.host.abi import abi_of
from kvmhost.host.memory import VmMemory
from kvmhost.launcher.devices import console as room
from kvmhost.launcher.devices.console import Console, Typing
from kvmhost.launcher.devices.device import Wiring
from kvmhost.launcher.devices.ring import Place, StopSign, Virtqueue

RINGS = (0x80000, 0x90000)
TEXT, ROOM = 0x10000, 0x20000
IRQS = (1, 2)
RELEASES = ("2.6.24", "2.6.25", "2.6.32", "3.12", "4.4")


class Bench:
    """A console, a driver of one release, and what came out."""

    def __init__(self, memory: VmMemory, release: str, console: Console) -> None:
        self.guest = FakeGuest(memory, release)
        self.failed: list[BaseException] = []
        self.guest.machine = self  # type: ignore[attr-defined]
        self.console = console
        self.places = [Place.contiguous(at, self.guest.abi.ring_entries) for at in RINGS]
        self.plug_in()

    def plug_in(self) -> None:
        """The driver has come (again)."""
        self.stop = StopSign()
        for place in self.places:
            self.guest.write(place.descriptors, bytes(4096 * place.pages))
        self.queues = tuple(
            Virtqueue(cast(Any, self.guest), f"console queue {n}", place, self.interrupt(n), self.stop)
            for n, place in enumerate(self.places)
        )
        self.rx, self.tx = (Driver(self.guest, place) for place in self.places)
        self.console.start(Wiring(cast(Any, self.guest), self.guest.abi, 0, self.queues, self.stop))

    def interrupt(self, queue: int) -> Callable[[], None]:
        return lambda: self.guest.post(IRQS[queue])

    def fail(self, error: BaseException) -> None:
        """As a Machine does."""
        self.failed.append(error)

    def say(self, *pieces: bytes) -> tuple[int, int]:
        """The driver prints: what came back."""
        at = TEXT
        buffers = []
        for piece in pieces:
            self.guest.write(at, piece)
            buffers.append(Buffer(at, len(piece)))
            at += len(piece)
        self.tx.add(buffers)
        self.queues[1].kick()
        return self.tx.take()

    def prompt(self) -> None:
        """The driver prints something, and wants no interrupt for it."""
        self.tx.no_interrupts()
        self.say(b"$ ")

    def offer(self, length: int, at: int = ROOM) -> None:
        """The driver has room for input."""
        self.rx.add([Buffer(at, length, write=True)])
        self.queues[0].kick()

    def hear(self, at: int = ROOM) -> bytes:
        """What the driver reads."""
        _, length = self.rx.take()
        return self.guest.read(at, length)


@pytest.fixture
def said() -> list[bytes]:
    return []


@pytest.fixture(params=RELEASES)
def bench(request: pytest.FixtureRequest, memory: VmMemory, said: list[bytes]) -> Iterator[Bench]:
    bench = Bench(memory, request.param, Console(said.append))
    yield bench
    bench.console.close()


def test_what_is_printed_comes_out_before_the_buffer_goes_back(bench: Bench, said: list[bytes]) -> None:
    _, length = bench.say(b"Hello ", b"from ring 1.\r\n")
    assert b"".join(said) == b"Hello from ring 1.\r\n"
    assert length == (20 if bench.guest.abi.name == "2.6.24" else 0)


def test_what_is_typed_goes_in_with_its_length_and_an_interrupt(bench: Bench) -> None:
    bench.prompt()
    bench.offer(4096)
    assert bench.console.type(b"ls -l\n") == 6
    assert bench.hear() == b"ls -l\n"
    bench.guest.until(lambda: bench.guest.irqs == [IRQS[0]])


def test_no_interrupts_for_a_driver_that_polls(bench: Bench, said: list[bytes]) -> None:
    bench.rx.no_interrupts()
    bench.prompt()
    bench.offer(4096)
    bench.console.type(b"x")
    assert bench.hear() == b"x"
    bench.say(b"y")
    bench.console.stop()  # no thread can interrupt any more
    assert bench.guest.irqs == []


def test_input_waits_for_the_driver_and_for_room(memory: VmMemory) -> None:
    typing = Typing()
    typing.put(b"typed before there was a driver\n")
    bench = Bench(memory, "3.12", Console(typing=typing))
    bench.offer(5)
    assert bench.hear() == b"typed"
    bench.offer(4096)
    assert bench.hear() == b" before there was a driver\n"
    bench.console.close()
    typing.close()


def test_a_driver_of_4_x_hears_nothing_before_it_has_spoken(
    memory: VmMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It throws away what comes before it has made its port."""
    monkeypatch.setattr(room, "SILENCE", 600.0)
    heard: list[bool] = []
    typing = Typing()
    typing.put(b"early")
    bench = Bench(memory, "4.4", Console(lambda words: heard.append(bench.rx.done()), typing))
    bench.offer(4096)
    bench.guest.until(lambda: bench.tx.wants_kick)
    bench.prompt()
    assert bench.hear() == b"early"
    assert heard == [False]
    bench.console.close()
    typing.close()


def test_a_driver_of_4_x_that_never_speaks_is_heard_out_and_then_gets_its_input(
    memory: VmMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that only reads has made its port when it has offered room, and no more of it for a while."""
    monkeypatch.setattr(room, "SILENCE", 0.01)
    bench = Bench(memory, "4.4", Console())
    bench.console.type(b"for a listener")
    bench.offer(4096)
    assert bench.hear() == b"for a listener"
    bench.console.close()


def test_a_driver_that_is_still_busy_offering_room_gets_no_input(
    memory: VmMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "SILENCE", 600.0)
    offered = iter([0, 0, 1, 2, 5, 5])

    class Queue:
        stop = StopSign()
        waiting = property(lambda self: next(offered))

        def wait_for(self, fd: int, timeout: float) -> bool:
            assert timeout == 600.0
            return False

    queue: Any = Queue()
    screen = Console()
    screen._spoken = -1
    assert screen._wait_for_its_port(queue)
    assert list(offered) == []
    queue.stop.set()
    assert not screen._wait_for_its_port(queue)
    queue.stop.close()
    screen.close()


def test_input_outlives_the_driver_and_the_console(memory: VmMemory) -> None:
    typing = Typing()
    bench = Bench(memory, "3.12", Console(typing=typing))
    bench.console.stop()
    typing.put(b"to the next one")
    bench.plug_in()
    bench.offer(6)
    assert bench.hear() == b"to the"
    bench.console.close()
    bench.console = Console(typing=typing)
    bench.plug_in()
    bench.offer(99)
    assert bench.hear() == b" next one"
    bench.console.close()
    typing.close()


def test_a_buffer_without_room_goes_back_empty(bench: Bench) -> None:
    bench.prompt()
    bench.console.type(b"z")
    bench.rx.add([Buffer(TEXT, 9)])  # nothing to write to
    bench.queues[0].kick()
    assert bench.rx.take()[1] == 0
    bench.offer(1)
    assert bench.hear() == b"z"


def test_the_last_words_are_said_though_the_guest_has_ended(memory: VmMemory, said: list[bytes]) -> None:
    """A Guest that does not wait for its buffer: kicked, and gone."""
    reading = threading.Event()

    def slowly(words: bytes) -> None:
        assert reading.wait(30)
        said.append(words)

    bench = Bench(memory, "3.12", Console(slowly))
    for at, words in ((TEXT, b"Power "), (TEXT + 64, b"down.")):
        bench.guest.write(at, words)
        bench.tx.add([Buffer(at, len(words))])
        bench.queues[1].kick()
    ending = threading.Thread(target=bench.console.close)
    ending.start()
    reading.set()
    ending.join()
    assert b"".join(said) == b"Power down."


def test_a_reader_who_does_not_read_holds_up_output_alone(memory: VmMemory) -> None:
    reading = threading.Event()
    bench = Bench(memory, "3.12", Console(lambda words: reading.wait(30)))
    bench.guest.write(TEXT, b"nobody reads this")
    bench.tx.add([Buffer(TEXT, 17)])
    bench.queues[1].kick()
    bench.offer(4096)
    bench.console.type(b"still here")
    assert bench.hear() == b"still here"
    assert not bench.tx.done()
    reading.set()
    assert bench.tx.take()[1] == 0
    bench.console.close()


def test_an_output_that_fails_ends_the_run_with_what_it_raised(memory: VmMemory) -> None:
    def nobody_reads(words: bytes) -> None:
        raise BrokenPipeError

    bench = Bench(memory, "3.12", Console(nobody_reads))
    bench.guest.write(TEXT, b"?")
    bench.tx.add([Buffer(TEXT, 1)])
    bench.queues[1].kick()
    bench.guest.until(lambda: bool(bench.failed))
    assert isinstance(bench.failed[0], BrokenPipeError)
    assert bench.guest.ended == []
    bench.console.close()


def test_a_very_long_text_is_said_in_pieces(memory: VmMemory, said: list[bytes]) -> None:
    bench = Bench(memory, "3.12", Console(said.append))
    bench.tx.add([Buffer(0, 1 << 20), Buffer(0, 1 << 20)])
    bench.queues[1].kick()
    bench.tx.take()
    assert sum(map(len, said)) == 2 << 20
    assert max(map(len, said)) <= 1 << 16
    bench.console.close()


@pytest.mark.parametrize(
    ("release", "size", "features", "config"),
    [
        ("3.12", None, 0, b""),
        ("3.12", (132, 43), 1, bytes([132, 0, 43, 0])),
        ("2.6.32", (80, 24), 1, bytes([80, 0, 24, 0])),
        ("2.6.25", (80, 24), None, b""),
        ("2.6.24", (80, 24), None, b""),
        ("4.4", (80, 24), 1 << 2 | 1, bytes([80, 0, 24, 0, 1, 0, 0, 0, 0, 0, 0, 0])),
        ("4.4", None, 1 << 2, bytes([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])),
    ],
)
def test_what_a_driver_is_told(
    release: str, size: tuple[int, int] | None, features: int | None, config: bytes
) -> None:
    abi = abi_of(release)
    assert abi is not None
    console = Console(size=size)
    if features is not None:
        assert console.features(abi) == features
    else:
        assert not abi.features
    assert console.config(abi) == config
    console.close()


def test_a_new_size_is_told_once() -> None:
    abi = abi_of("4.4")
    assert abi is not None
    told: list[bytes] = []
    console = Console(size=(80, 24))
    console.on_config_change = lambda: told.append(console.config(abi)[:4])
    console.resize(100, 50)
    console.resize(100, 50)
    assert told == [bytes([100, 0, 50, 0])]
    without = Console()
    without.on_config_change = lambda: told.append(b"")
    without.resize(100, 50)
    assert len(told) == 1
    console.close()
    without.close()


def test_a_driver_is_told_of_the_size_once_it_has_a_place_to_keep_it(memory: VmMemory) -> None:
    """That of 4.0 and later looks at the size only when it is told of a change."""
    told: list[str] = []
    console = Console(size=(132, 43))
    console.on_config_change = lambda: told.append("changed")
    bench = Bench(memory, "4.4", console)
    assert told == []
    for _ in range(2):
        bench.say(b"x")
    bench.guest.until(lambda: told == ["changed"])
    for _ in range(2):
        bench.offer(1)
        console.type(b"y")
        bench.hear()
    bench.guest.until(lambda: told == ["changed"] * 2)
    console.stop()  # no thread can tell any more
    assert len(told) == 2
    bench.plug_in()
    bench.say(b"z")
    bench.guest.until(lambda: len(told) == 3)
    console.close()


def test_a_guest_that_says_one_thing_for_ever_does_not_keep_its_device(memory: VmMemory) -> None:
    """255 parts, each the whole memory: when the device is to stop, no such speech is let finish."""
    said_afterwards = 0

    def listen(words: bytes) -> None:
        nonlocal said_afterwards
        said_afterwards += len(words) if bench.stop.is_set() else 0
        bench.stop.set()

    bench = Bench(memory, "3.12", Console(listen))
    bench.tx.add([Buffer(0, 0x60000)] * 255)
    bench.queues[1].kick()
    bench.guest.until(bench.stop.is_set)
    bench.console.close()
    assert 0x60000 - room.PIECE < said_afterwards <= room.LAST_WORDS


def test_early_text_needs_no_driver(said: list[bytes]) -> None:
    console = Console(said.append)
    for letter in b"ab":
        console.write_config(8, bytes([letter, 0, 0, 0]))
    console.write_config(0, b"zz")
    assert said == [b"a", b"b"]
    console.close()


def test_the_terminal_follows_the_driver(memory: VmMemory) -> None:
    seen: list[str] = []
    console = Console()
    console.on_start = lambda: seen.append("came")
    console.on_stop = lambda: seen.append("gone")
    console.stop()
    bench = Bench(memory, "3.12", console)
    console.stop()
    bench.plug_in()
    console.close()
    assert seen == ["came", "gone", "came", "gone"]


def test_typing_is_bounded_and_says_when_there_is_room() -> None:
    typing = Typing()
    assert typing.put(bytes(Typing.MOST + 5)) == Typing.MOST
    assert (typing.put(b"x"), typing.room) == (0, 0)
    roomy = threading.Thread(target=typing.wait_for_room)
    roomy.start()
    assert len(typing.take(10)) == 10
    roomy.join()
    assert typing.put(b"0123456789abc") == 10
    typing.close()
    assert not typing.wait_for_room()
    assert typing.put(b"x") == 0
