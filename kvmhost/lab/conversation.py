"""The talk with a running lab: its streams, its control port, its log, and the signals and
deadlines from this side, all in one loop until the command's exit code is here.

The control port carries lines. To the lab: the job, "size ROWS COLUMNS", "signal NUMBER",
"closed STREAM". From the lab: "started", then "exit CODE" with the number of bytes that it
sent as stdout, stderr and screen. Those may still be on their way, so the talk is over only
when as many have arrived; only then is it safe to switch the lab off."""

from __future__ import annotations

import select
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress

from kvmhost.lab import signals, terminal
from kvmhost.lab.errors import LabError, LabTimeout
from kvmhost.lab.job import Job
from kvmhost.lab.plumbing import Flow, wait
from kvmhost.lab.streams import Streams

# A loaded machine may take many times the usual five seconds.
START_SECONDS = 180.0
# How long a command may take to end after Ctrl-C before the lab is switched off.
GRACE_SECONDS = 5.0
# Ctrl-C pressed this often within this time switches off a lab whose command ignores it; more often if the
# command has its own way to be ended by keys, and then it gets the time to end.
CTRL_C = 0x03
CTRL_C_COUNT = 3
CTRL_C_COUNT_OF_OTHERS = 10
CTRL_C_SECONDS = 2.0


class SwitchedOff(Exception):
    """The lab is to be switched off at once; `number` is the signal that asked for it.

    >>> SwitchedOff(signal.SIGINT).number
    <Signals.SIGINT: 2>
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Conversation:
    """One command's talk with the lab. `ports` are our ends, by what they carry:
    "stdin", "stdout", "stderr", "control", "terminal"; streams that are on the terminal
    have no flow of their own."""

    def __init__(
        self,
        ports: Mapping[str, socket.socket],
        log: socket.socket,
        qemu_errors: int,
        streams: Streams,
        *,
        job: Job,
        timeout: float | None,
        own_keys: bool = False,
    ) -> None:
        self._own_keys = own_keys
        self._raw: terminal.Raw | None = None
        self._ports = ports
        self._streams = streams
        self._timeout = timeout
        self._began = time.monotonic()
        self._started = False
        self._exit: list[int] | None = None
        self._kill_at: float | None = None
        self._last_signal = 0
        self._ctrl_c: list[float] = []
        self._control = Flow(ports["control"].fileno(), None)
        self._orders = Flow(-1, ports["control"].fileno())
        self._orders.source_ended = True
        self._orders.buffer += job.packed()
        self._log = Flow(log.fileno(), None)
        self._qemu_errors = Flow(qemu_errors, None)
        self._stdin: Flow | None = None
        self._keys: Flow | None = None
        self._outputs: list[Flow | None] = [None, None, None]
        self._open_flows(job.on_terminal)

    def _open_flows(self, on_terminal: tuple[bool, bool, bool]) -> None:
        port = {name: end.fileno() for name, end in self._ports.items()}
        if not on_terminal[0]:
            self._stdin = Flow(self._streams.stdin, port["stdin"])
        if not on_terminal[1]:
            self._outputs[0] = Flow(port["stdout"], self._streams.stdout)
        if not on_terminal[2]:
            self._outputs[1] = Flow(port["stderr"], self._streams.stderr)
        if any(on_terminal):
            screens = zip(
                on_terminal, (self._streams.stdin, self._streams.stdout, self._streams.stderr), strict=True
            )
            self._outputs[2] = Flow(port["terminal"], [fd for yes, fd in screens if yes][-1])
            self._keys = Flow(self._streams.stdin, port["terminal"])
            self._keys.paused = True

    def hold(self) -> int:
        """Talks until the command has ended and returns its exit code.

        Raises LabError when the lab died or never started, LabTimeout when the time is over.
        """
        with ExitStack() as stack:
            told = stack.enter_context(signals.readable())
            self._raw = stack.enter_context(terminal.Raw(self._streams.stdin))
            while not self._is_over():
                events = wait(self._wishes(told), self._patience())
                self._check_clock()
                for number in self._read_signals(told, events):
                    self._obey_signal(number)
                self._move(events)
                if self._read_control(events):
                    self._take_keys()
                self._pass_on_end_of_stdin()
        assert self._exit is not None
        return self._exit[0]

    def _take_keys(self) -> None:
        """From now on every key goes inside, if there is a terminal and it is ours."""
        if self._started and self._keys is not None and self._raw is not None:
            self._keys.paused = not self._raw.take()

    def _last_words(self, patience: float = 0.0) -> str:
        """What the lab's kernel and QEMU itself printed last. A QEMU that has died closes
        both; `patience` is how many seconds to wait for that."""
        for flow in (self._log, self._qemu_errors):
            while not flow.source_ended and (events := wait(flow.wishes(), patience)):
                flow.move(events)
        return (self._log.buffer + self._qemu_errors.buffer).decode(errors="replace").replace("\r", "")

    def _all_flows(self) -> Iterator[Flow]:
        for flow in (self._stdin, self._keys, *self._outputs, self._orders, self._log, self._qemu_errors):
            if flow is not None:
                yield flow

    def _wishes(self, told: socket.socket) -> Iterator[tuple[int, int]]:
        yield told.fileno(), select.POLLIN
        yield from self._control.wishes()
        for flow in self._all_flows():
            yield from flow.wishes()

    def _move(self, events: dict[int, int]) -> None:
        for flow in self._all_flows():
            was_gone = flow.target_gone
            got = flow.move(events)
            if flow is self._keys:
                self._watch_keys(got)
            if flow.target_gone and not was_gone and flow in self._outputs[:2]:
                self._order(f"closed {1 + self._outputs.index(flow)}")

    def _pass_on_end_of_stdin(self) -> None:
        # The end of stdin must not reach a port before the lab has seen it open.
        stdin = self._stdin
        if stdin is not None and self._started and stdin.source_ended and stdin.is_empty:
            with suppress(OSError):  # A lab that has died says so on its control port.
                self._ports["stdin"].shutdown(socket.SHUT_WR)
            self._stdin = None

    def _order(self, line: str) -> None:
        self._orders.buffer += line.encode() + b"\n"

    def _read_control(self, events: dict[int, int]) -> bool:
        """Reads what the lab says; True when the command has just started."""
        self._control.move(events)
        started = False
        while b"\n" in self._control.buffer:
            line, _, rest = bytes(self._control.buffer).partition(b"\n")
            self._control.buffer[:] = rest
            word, *numbers = line.decode(errors="replace").split() or [""]
            if word == "started":
                started = self._started = True
            elif word == "exit":
                self._exit = [int(number) for number in numbers]
        if self._control.source_ended and not self._is_over():
            raise LabError("the lab died", next_step="read its last words above", log=self._last_words(2.0))
        return started

    # [L90] Over is not when the exit code has come, but when every stream has arrived up to the
    # length that came with it, and has been written to wherever it goes.
    def _is_over(self) -> bool:
        if self._exit is None:
            return False
        for flow, sent in zip(self._outputs, self._exit[1:], strict=True):
            if flow is not None and (flow.carried < sent or not flow.is_empty):
                return False
        return True

    def _patience(self) -> float | None:
        deadlines = [self._kill_at]
        if self._timeout is not None:
            deadlines.append(self._began + self._timeout)
        if not self._started:
            deadlines.append(self._began + START_SECONDS)
        times = [deadline for deadline in deadlines if deadline is not None]
        return min(times) - time.monotonic() if times else None

    def _check_clock(self) -> None:
        now = time.monotonic()
        if self._kill_at is not None and now >= self._kill_at:
            raise SwitchedOff(self._last_signal)
        if self._timeout is not None and now >= self._began + self._timeout:
            raise LabTimeout(
                f"the command in the lab did not end within {self._timeout:g} seconds",
                next_step="give it more time; a program in the lab runs about 30 times slower than outside",
                log=self._last_words(),
            )
        if not self._started and now >= self._began + START_SECONDS:
            raise LabError(
                f"the lab did not start within {START_SECONDS:g} seconds",
                next_step="see its last words above, and whether this machine is overloaded",
                log=self._last_words(),
            )

    def _read_signals(self, told: socket.socket, events: dict[int, int]) -> bytes:
        return told.recv(64) if told.fileno() in events else b""

    def _obey_signal(self, number: int) -> None:
        if number == signal.SIGWINCH:
            if self._keys is not None:
                self._order("size {} {}".format(*terminal.size(self._streams.stdin)))
        elif number == signal.SIGTSTP:
            if self._raw is not None:
                self._raw.give_back()
            signals.stop_here()
            self._take_keys()
        elif number == signal.SIGCONT:
            self._take_keys()
        elif number in signals.ENDING:
            if not self._started or self._kill_at is not None:
                raise SwitchedOff(number)
            self._last_signal = number
            self._kill_at = time.monotonic() + GRACE_SECONDS
            self._order(f"signal {int(number)}")

    def _watch_keys(self, keys: bytes) -> None:
        now = time.monotonic()
        for key in keys:
            self._ctrl_c = [*self._ctrl_c, now] if key == CTRL_C else []
        self._ctrl_c = [pressed for pressed in self._ctrl_c if now - pressed < CTRL_C_SECONDS]
        if not self._own_keys and len(self._ctrl_c) >= CTRL_C_COUNT:
            raise SwitchedOff(signal.SIGINT)
        if len(self._ctrl_c) >= CTRL_C_COUNT_OF_OTHERS and self._kill_at is None:
            self._last_signal = signal.SIGINT
            self._kill_at = now + GRACE_SECONDS
