"""Ten minutes of work inside a Linux Guest, and what kvmhost becomes of it (started by ci/soak).

The Guest runs soak_guest.sh.  Beside it the process that runs the Guest is looked at from /proc: what it has
in memory besides the Guest's own (which is the one mapping that no core dump would contain), its open files
and its threads.  Once it is warm none of that may grow.  The Guest must find nothing wrong and come to its
end (one that lost an interrupt does not), and then the image of the disk must contain what it last wrote to
each place.  How its clock went is told and not judged: a busy machine's delays look like a drift.

Where there is no KVM that will do, all of this happens in a lab.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Final

from kvmhost.doctor import native_verdict
from kvmhost.lab import IN_LAB

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / "build" / "ci" / "soak"
GUEST: Final = Path(__file__).with_name("soak_guest.sh")
KVMHOST: Final = (sys.executable, "-P", "-m", "kvmhost")
GUEST_MIB: Final = 64
PLACE_BYTES: Final = 128 << 10
DISK_BYTES: Final = 16 * PLACE_BYTES
SAMPLE_SECONDS: Final = 15
# The kernel hands out memory in pieces of 2 MiB where it can, so less than two of them is no growth.
MOST_GROWTH_KB: Final = 4 << 10


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process has at one moment.  own and guest are in KiB; guest is the memory of the VM."""

    seconds: float
    own: int
    guest: int
    files: int
    threads: int


def look(pid: int, start: float) -> Sample:
    """What process `pid` has now.  Raises OSError once it has ended."""
    process = Path("/proc", str(pid))
    own = guest = 0
    for mapping in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", (process / "smaps").read_text()):
        anonymous = re.search(r"^Anonymous: +(\d+)", mapping, re.MULTILINE)
        size = int(anonymous[1]) if anonymous else 0
        if re.search(r"^VmFlags:.*\bdd\b", mapping, re.MULTILINE):
            guest += size
        else:
            own += size
    files = len(list((process / "fd").iterdir()))
    threads = len(list((process / "task").iterdir()))
    return Sample(time.monotonic() - start, own, guest, files, threads)


class Listener(threading.Thread):
    """Reads the Guest's console, keeps it, and knows when each line came."""

    def __init__(self, console: IO[bytes], kept: Path, start: float) -> None:
        super().__init__(daemon=True)
        self.lines: list[tuple[float, str]] = []
        self._console, self._kept, self._start = console, kept, start

    def run(self) -> None:
        with self._kept.open("wb") as log:
            for line in self._console:
                log.write(line)
                log.flush()
                text = line.decode("utf-8", "replace").strip()
                self.lines.append((time.monotonic() - self._start, text))
                if text.startswith("soak tick"):
                    print(f"  {text}", flush=True)


def cpio(files: dict[str, tuple[int, bytes, tuple[int, int]]]) -> bytes:
    """An archive in cpio's "newc" format: name to (mode, content, device)."""
    packed = bytearray()
    for number, (name, (mode, content, device)) in enumerate(
        [*files.items(), ("TRAILER!!!", (0, b"", (0, 0)))], start=1
    ):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
        packed += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        packed += bytes(-len(packed) % 4) + content
        packed += bytes(-len(packed) % 4)
    return bytes(packed)


def prepare(initrd: Path) -> None:
    """The initrd with our /init behind it, which is the one that counts, and an empty disk."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    theirs = initrd.read_bytes()
    ours = cpio(
        {
            "init": (0o100755, GUEST.read_bytes(), (0, 0)),
            "dev": (0o040755, b"", (0, 0)),
            "dev/console": (0o020600, b"", (5, 1)),
        }
    )
    (FOLDER / "initrd").write_bytes(theirs + bytes(-len(theirs) % 4) + ours)
    with (FOLDER / "disk").open("wb") as disk:
        disk.truncate(DISK_BYTES)


def run(kernel: str, minutes: int) -> tuple[int, list[Sample], list[tuple[float, str]]]:
    """Boot, sample until the end: the exit code, the samples, and the lines of the console."""
    start = time.monotonic()
    options = ["--initrd", str(FOLDER / "initrd"), "--block", str(FOLDER / "disk")]
    options += ["--memory", f"{GUEST_MIB}M", "--append", f"console=hvc0 quiet soak={60 * minutes}"]
    options += ["--timeout", str(600 + 180 * minutes)]
    with subprocess.Popen(
        [*KVMHOST, "run", kernel, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        listener = Listener(process.stdout, FOLDER / "console", start)
        listener.start()
        samples: list[Sample] = []
        while process.poll() is None:
            try:
                process.wait(SAMPLE_SECONDS)
            except subprocess.TimeoutExpired:
                with suppress(OSError):  # it may have ended just now
                    samples.append(look(process.pid, start))
                    print(samples[-1], flush=True)
        listener.join()
    return process.returncode, samples, listener.lines


def judge_process(samples: list[Sample]) -> list[str]:
    """What grew in the second half of the time, when everything is warm."""
    half = len(samples) // 2
    if half < 2:
        return ["it was over before there was anything to see"]
    early, late = samples[half // 2 : half], samples[half:]
    found = []
    growth = max(sample.own for sample in late) - max(sample.own for sample in early)
    print(f"kvmhost's own memory: {early[-1].own} KiB, then at most {growth:+d} KiB")
    if growth > MOST_GROWTH_KB:
        found.append(f"kvmhost's own memory grew by {growth} KiB")
    for what in ("files", "threads"):
        before, after = (max(getattr(sample, what) for sample in part) for part in (early, late))
        if after > before:
            found.append(f"{before} {what} became {after}")
    return found


def judge_guest(code: int, lines: list[tuple[float, str]]) -> list[str]:
    """What the Guest called wrong, whether it came to its end, and whether its clock went on."""
    found = [text for _, text in lines if text.startswith("soak wrong")]
    if code != 0 or not any(text == "soak done" for _, text in lines):
        found.append(f"the Guest did not come to its end (exit code {code})")
    ticks = [(ours, float(text.split()[2])) for ours, text in lines if text.startswith("soak tick")]
    if any(later[1] <= earlier[1] for earlier, later in pairwise(ticks)):
        found.append("the Guest's clock did not go on")
    half = len(ticks) // 2
    if half:
        # A line comes late on a busy machine and never early, so the promptest of many tell the most.
        before, after = (min(ours - theirs for ours, theirs in part) for part in (ticks[:half], ticks[half:]))
        print(f"in the second half of {ticks[-1][1]:.0f} s the Guest's clock is {after - before:.2f} s later")
    return found


def judge_disk(lines: list[tuple[float, str]]) -> list[str]:
    """Which places of the image do not contain what the Guest wrote there last."""
    image = (FOLDER / "disk").read_bytes()
    places = [text.split()[2:4] for _, text in lines if text.startswith("soak place ")]
    found = [] if places else ["the Guest wrote nothing to its disk"]
    for place, digest in places:
        at = int(place) * PLACE_BYTES
        actual = hashlib.md5(image[at : at + PLACE_BYTES], usedforsecurity=False).hexdigest()
        if actual != digest:
            found.append(f"place {place} of the disk's image has {actual} instead of {digest}")
    print(f"{len(places)} places of the disk compared")
    return found


def soak(kernel: str, minutes: int) -> int:
    """Run and judge; 0 if nothing is wrong."""
    code, samples, lines = run(kernel, minutes)
    found = [*judge_process(samples), *judge_guest(code, lines), *judge_disk(lines)]
    for sentence in found:
        print(f"ci/soak: {sentence}", file=sys.stderr)
    print("ci/soak: " + ("FAILED" if found else "passed"))
    return 1 if found else 0


def main(kernel: str, initrd: str, minutes: str) -> int:
    """Here if there is a KVM that will do, else in a lab."""
    if IN_LAB in os.environ:
        return soak(kernel, int(minutes))
    prepare(Path(initrd))
    if native_verdict().ok:
        return soak(kernel, int(minutes))
    line = [*KVMHOST, "lab", "run", "--memory", f"{1024 + GUEST_MIB}M", "--writable", str(FOLDER), "--"]
    return subprocess.run([*line, sys.executable, __file__, kernel, initrd, minutes], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
