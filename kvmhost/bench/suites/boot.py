"""From an image to a Guest that speaks: the shipped one, and the user's own Linux up to user space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from kvmhost.bench.benchmark import Benchmark, Setting, Subject, Suite, Unit

HELLO, LINUX = "hello", "linux"
NO_KERNEL = "it takes a Linux kernel: name one with --kernel FILE, and what it boots from with --initrd FILE"
_FROM = (
    "By the monotonic clock (where instructions are counted, those of this process), "
    "from before /dev/kvm is opened and the image is read from its file: a Machine "
    "with one vCPU and 64 MiB, and this Guest alone in it"
)
_COUNTS = (
    "Nothing is subtracted.  Exits are returns of KVM_RUN, traps those that left the Guest, by kind, up to "
    "the same moment."
)


def _boot(name: str, group: str, says: str) -> Benchmark:
    return Benchmark(
        f"boot/{name}",
        f"{_FROM}.  {says}  {_COUNTS}",
        Unit.NANOSECONDS,
        group,
        reference=f"boot/{group}-first-output",
        needs=("paging32", "kernel") if group == LINUX else ("paging32",),
    )


BENCHMARKS = (
    _boot("hello-first-output", HELLO, "Until the shipped Guest `hello` has said its first word."),
    _boot("hello-power-off", HELLO, "Until `hello` has said all of it, and its run is over."),
    _boot(
        "linux-first-output",
        LINUX,
        "Until --kernel, with --initrd and --append, has said its first word, whoever in it says that: it "
        "depends on the command line.",
    ),
    _boot(
        "linux-user-space",
        LINUX,
        "Until --kernel, with --initrd and --append, has a system call from ring 3 (INT 0x80), the first "
        "that init makes; a hook on system calls is there until then.",
    ),
)


@contextmanager
def subjects(benchmarks: tuple[Benchmark, ...], setting: Setting) -> Iterator[Mapping[str, Subject | str]]:
    """The subjects of one of the two groups."""
    if benchmarks[0].group == LINUX and setting.kernel is None:
        yield {benchmark.name: NO_KERNEL for benchmark in benchmarks}
        return
    from kvmhost.bench import boots
    from kvmhost.bench.doing import Doing

    once = boots.hello if benchmarks[0].group == HELLO else boots.linux
    doing = Doing(lambda: once(setting), shared=setting.icount)
    yield {benchmark.name: doing.subject(benchmark.name) for benchmark in benchmarks}


SUITE = Suite("boot", "From an image to its first words", BENCHMARKS, subjects)
