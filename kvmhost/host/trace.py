"""Every trap and device event on one line of time, for Perfetto and its like.

The file is Chrome's trace JSON ("Trace Event Format"): Perfetto (ui.perfetto.dev)
and chrome://tracing open it.  Each Guest is a process in it, each vCPU it ran on a
thread, and its devices one more.  Time is the Guest's: it begins when the Guest
does, and runs as the Guest's own clock runs.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from kvmhost.host.guest import Guest

# The track of device events, beside those of vCPUs 0 to 15.
DEVICES = 100


class TraceFile:
    """A trace being written to an open text file; close() makes it whole and leaves the file open.

    All times are in nanoseconds of time.monotonic_ns().  Methods may be called from any thread.  An
    error of the file (OSError) ends the trace, not the Guest: `error` keeps it.

    >>> import io
    >>> from types import SimpleNamespace
    >>> text = io.StringIO()
    >>> with TraceFile(text) as trace:
    ...     trace.span(SimpleNamespace(name="hello"), 0, "page fault", 1000, 3500, {})
    >>> [event["dur"] for event in json.loads(text.getvalue())["traceEvents"] if event["ph"] == "X"]
    [2.5]
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._pids: dict[int, int] = {}
        self._tracks: set[tuple[int, int]] = set()
        self._starts: dict[int, int] = {}
        self._keep: list[object] = []
        self._closed = False
        self._between = "\n"
        self.error: OSError | None = None
        self._write('{"displayTimeUnit":"ns","traceEvents":[')

    def span(
        self, guest: Guest, cpu: int, name: str, start: int, end: int, details: Mapping[str, object]
    ) -> None:
        """Something that lasted, on vCPU `cpu`: the handling of one trap."""
        self._event(guest, cpu, {"ph": "X", "name": name, "args": details}, start, end - start)

    def instant(self, guest: Guest, name: str, when: int, details: Mapping[str, object]) -> None:
        """Something that happened at one moment, in the Guest's devices."""
        self._event(guest, DEVICES, {"ph": "i", "s": "t", "name": name, "args": details}, when, None)

    def close(self) -> None:
        """Write the end.  Twice is as good as once."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._write("\n]}\n")
                self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _event(
        self, guest: Guest, track: int, event: dict[str, object], when: int, lasted: int | None
    ) -> None:
        with self._lock:
            if self._closed or self.error is not None:
                return
            pid = self._pid(guest, when)
            if (pid, track) not in self._tracks:
                self._tracks.add((pid, track))
                name = "devices" if track == DEVICES else f"vCPU {track}"
                self._line(
                    {"ph": "M", "name": "thread_name", "pid": pid, "tid": track, "args": {"name": name}}
                )
            event.update(pid=pid, tid=track, ts=max(when - self._starts[pid], 0) / 1000)
            if lasted is not None:
                event["dur"] = lasted / 1000
            self._line(event)

    def _pid(self, guest: Guest, when: int) -> int:
        """The number of a Guest, and the first moment that anybody tells of it."""
        pid = self._pids.get(id(guest))
        if pid is None:
            pid = self._pids[id(guest)] = len(self._pids) + 1
            self._keep.append(guest)
            self._starts[pid] = when
            self._line(
                {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": guest.name}}
            )
        return pid

    def _line(self, event: Mapping[str, object]) -> None:
        self._write(self._between + json.dumps(event, separators=(",", ":")))
        self._between = ",\n"

    def _write(self, text: str) -> None:
        if self.error is None:
            try:
                self._file.write(text)
            except OSError as error:
                self.error = error

    def _flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self.error = self.error or error
