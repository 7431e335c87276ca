"""Running one command in the lab, from looking for QEMU to the command's exit code."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kvmhost.lab import initramfs, qemu, terminal
from kvmhost.lab.channel import CHANNELS, FIRST_CHANNEL
from kvmhost.lab.conversation import Conversation, SwitchedOff
from kvmhost.lab.errors import LabError
from kvmhost.lab.job import Job
from kvmhost.lab.provide import find_kernel, kernel_missing, network_missing
from kvmhost.lab.request import (
    cached_folders,
    check_reachable,
    checked_cpus,
    checked_memory,
    find_program,
    writable_folders,
)
from kvmhost.lab.streams import Streams, usable

# Set to 1 for everything that runs inside a lab.
IN_LAB = "KVMHOST_IN_LAB"

DEFAULT_MEMORY = "1G"
# prctl(2): the signal that a process gets when its parent ends.
PR_SET_PDEATHSIG = 1

# What each virtio-serial port carries (native/lab/lab.h: enum port).
PORTS = {"stdin": 1, "stdout": 2, "stderr": 3, "control": 4, "terminal": 5}


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    writable: Iterable[str | os.PathLike[str]] | None = None,
    timeout: float | None = None,
    memory: str = DEFAULT_MEMORY,
    cpus: int = 1,
    network: bool = False,
    icount: bool = False,
    streams: Streams | None = None,
    channels: Sequence[int] = (),
    own_keys: bool = False,
) -> int:
    """Runs a command in the lab and returns its exit code.

    The command sees the host's files as they are and runs as the same user. What it changes
    is forgotten, except in the folders of `writable`, where every change is the host's own
    (but the Python environment that kvmhost runs in is never changed). By default that is the
    folder it runs in, `cwd` or the current one, if the user may write there. `env` is the
    whole environment, by default ours. Its streams are ours, or those of `streams`; on a
    terminal it has a terminal. `timeout` is in seconds from now, the lab's start (about 5
    seconds) included. `memory` is the lab's, "512M" or "2G"; `cpus` how many CPUs it has. With
    `network` it reaches whatever this machine reaches, and this machine itself at 10.0.2.2. With
    `icount` its clocks count instructions: each takes a nanosecond, the time-stamp counter goes up
    by one, and two runs of the same code read the same.
    `channels` are connected stream sockets (descriptors, which stay the caller's): the command
    finds the other end of the n-th by `open_channel(n)`. On a terminal, three times Ctrl-C in a
    row switches the lab off; not with `own_keys`, which promises that the command itself
    understands keys that end it.

    Exit codes are as a shell gives them: 127 when the command is not found, 126 when it is
    not executable, 128 and the signal's number when a signal ended it, or ended the lab:
    SIGINT, SIGTERM and SIGHUP are handed on, and after five seconds, or at the second one,
    the lab is switched off. Nothing of it is left running when this returns.

    Raises LabError when there can be no lab here or it died, LabTimeout when the time is over.

        code = run(["python3", "-c", "open('/dev/kvm')"], timeout=60)

    >>> run(["no-such-command"])
    127
    """
    env = os.environ if env is None else env
    folder = str(Path("." if cwd is None else cwd).absolute())
    if env.get(IN_LAB) or os.environ.get(IN_LAB):
        raise LabError("this is the lab already", next_step="run the command as it is")
    program = find_program(argv, env, folder)
    if isinstance(program, int):
        return program
    folders = writable_folders(writable, folder)
    check_reachable(Path(folder).resolve(), *folders)
    with usable(Streams() if streams is None else streams) as open_streams:
        tty = os.isatty(open_streams.stdin)
        job = Job(
            program=program,
            arguments=argv,
            environment={**env, IN_LAB: "1", CHANNELS: str(len(channels))},
            folder=folder,
            writable=folders,
            cached=cached_folders(folders),
            on_terminal=(tty, tty and os.isatty(open_streams.stdout), tty and os.isatty(open_streams.stderr)),
            size=terminal.size(open_streams.stdin),
            channels=len(channels),
        )
        return _run_job(
            job,
            open_streams,
            channels,
            timeout=timeout,
            memory=checked_memory(memory),
            cpus=checked_cpus(cpus),
            network=network,
            icount=icount,
            own_keys=own_keys,
        )


def _run_job(
    job: Job,
    streams: Streams,
    channels: Sequence[int],
    *,
    timeout: float | None,
    memory: str,
    cpus: int,
    network: bool,
    icount: bool,
    own_keys: bool,
) -> int:
    program = qemu.find_qemu()
    if program is None:
        raise qemu.qemu_missing()
    kernel = find_kernel()
    if kernel is None:
        raise kernel_missing()
    if network and not kernel.network:
        raise network_missing(kernel)
    # [L10] A lab is one process, QEMU, and what it is made of is all here: a kernel, an initramfs
    # in memory, and a handful of sockets.  One carries the kernel's log, the others are the
    # command's streams and the line on which we talk about them.  When this block is left,
    # however that comes about, QEMU dies and the lab was never there.
    with ExitStack() as stack:
        ports = {name: stack.enter_context(_SocketPair()) for name in PORTS}
        log = stack.enter_context(_SocketPair())
        initrd = stack.enter_context(initramfs.memory_file(initramfs.build(kernel)))
        line = qemu.command_line(
            program,
            vmlinux=kernel.vmlinux,
            initramfs=initrd,
            kernel_log=log.theirs.fileno(),
            ports={
                **{number: ports[name].theirs.fileno() for name, number in PORTS.items()},
                **{FIRST_CHANNEL + number: fd for number, fd in enumerate(channels)},
            },
            writable=job.writable,
            memory=memory,
            cpus=cpus,
            network=network,
            icount=icount,
        )
        inherited = [initrd, log.theirs.fileno(), *(pair.theirs.fileno() for pair in ports.values())]
        inherited += channels
        process = stack.enter_context(_running(line, inherited))
        for pair in (log, *ports.values()):
            pair.theirs.close()
        assert process.stderr is not None
        conversation = Conversation(
            {name: pair.ours for name, pair in ports.items()},
            log.ours,
            process.stderr.fileno(),
            streams,
            job=job,
            timeout=timeout,
            own_keys=own_keys,
        )
        try:
            return conversation.hold()
        except SwitchedOff as off:
            return 128 + off.number


class _SocketPair:
    """Two connected ends: `ours`, which never blocks, and `theirs`, which QEMU inherits."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)

    def __enter__(self) -> _SocketPair:
        return self

    def __exit__(self, *error: object) -> None:
        self.ours.close()
        self.theirs.close()


@contextmanager
def _running(line: list[str], inherited: list[int]) -> Iterator[subprocess.Popen[bytes]]:
    """QEMU for as long as the block runs, and not a moment longer, even if we are killed."""
    process = subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=inherited,
        start_new_session=True,  # Ctrl-C is for us to hand on, not for QEMU to die of.
        preexec_fn=_die_with_parent(),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _die_with_parent() -> Callable[[], None]:
    import ctypes

    set_option = ctypes.CDLL(None).prctl  # Found before the fork: after it, little is safe.
    parent = os.getpid()

    def in_the_child() -> None:
        set_option(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # It has ended before we asked to be told.
            os._exit(1)

    return in_the_child
