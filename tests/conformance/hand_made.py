"""Cases written by hand, with expectations from the manual: for the engines and the comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kvmhost.conformance.case import (
    NO_ERROR,
    Case,
    Expect,
    Masked,
    MemoryExpect,
    Observation,
    Start,
    TrapExpect,
    Watch,
)
from kvmhost.conformance.page_tables import PagingFormat
from kvmhost.conformance.runners.base import Runner
from kvmhost.conformance.scene import Scene
from kvmhost.conformance.stage import ADDRESS, GCS, PAGE, Stage

CODE = {"ring0": "HOST_CODE", "ring1": "G_CODE", "ring3": "U_CODE"}
STOPPED = TrapExpect(vector=0x2F, error=NO_ERROR, eip=ADDRESS["G_CODE"] + 2, cs=GCS["L1"], eflags=0x202)


def case(
    name: str,
    code: str,
    start: Start = "ring1",
    *,
    paging: PagingFormat = "legacy",
    expect: Expect | None = None,
    memory: Mapping[int, bytes] | None = None,
    watches: Sequence[Watch] = (),
    **cpu: object,
) -> Case:
    """A case of the L1 world: code as hex, at the start's own page; cpu are changes of Cpu's fields."""
    stage = Stage.of("L1", paging)
    scene = Scene(stage)
    scene.write(ADDRESS[CODE[start]], bytes.fromhex(code))
    for address, data in (memory or {}).items():
        scene.write(address, data)
    return Case(
        row="HAND-001",
        name=name,
        layer="L1",
        kind="P",
        template=stage.template,
        cpu=replace(stage.cpu(start), **cpu),  # type: ignore[arg-type]
        patches=scene.patches(),
        watches=tuple(watches),
        expect=expect or Expect(),
    )


def stop(name: str = "stop", expect: Expect | None = None) -> Case:
    """int 0x2f at ring 1."""
    return case(name, "cd2f", expect=expect or Expect(trap=STOPPED, changed=frozenset()))


def handful() -> list[Case]:
    """What must come out the same on every engine."""
    data = ADDRESS["G_DATA"]
    stack = ADDRESS["G_STACK"] + PAGE
    fault = 0x10202  # RF: deviation DV-02 masks it where it is 0
    return [
        stop(),
        case(
            "hlt at ring 1",
            "f4",
            expect=Expect(trap=TrapExpect(13, 0, ADDRESS["G_CODE"], GCS["L1"], fault, esp=stack)),
        ),
        case(
            "int 13 through a gate of DPL 0",
            "cd0d",
            expect=Expect(trap=TrapExpect(13, 13 << 3 | 2, ADDRESS["G_CODE"])),
        ),
        case(
            "ring 0 takes int 13, which pushes no error code",
            "cd0d",
            "ring0",
            expect=Expect(trap=TrapExpect(13, NO_ERROR, ADDRESS["HOST_CODE"] + 2, 0x60, 2)),
        ),
        case(
            "a frame across two pages",
            "cd2f",
            "ring0",
            esp=ADDRESS["X1"] + 8,
            expect=Expect(
                trap=TrapExpect(0x2F, NO_ERROR, ADDRESS["HOST_CODE"] + 2, 0x60, 2),
                regs={"esp": Masked(ADDRESS["X1"] + 8)},
            ),
        ),
        case(
            "mov [G_DATA], 0xdeadbeef under PAE",
            "c705" + data.to_bytes(4, "little").hex() + "efbeadde" + "cd2f",
            "ring1",
            paging="pae",
            expect=Expect(
                trap=TrapExpect(0x2F, NO_ERROR),
                memory=(MemoryExpect(data, bytes.fromhex("efbeadde")),),
                changed=frozenset({data - ADDRESS["HOST_TOP"] >> 12}),
            ),
        ),
        case(
            "read of an absent page at ring 3",
            "a100000000",
            "ring3",
            expect=Expect(trap=TrapExpect(14, 4, ADDRESS["U_CODE"], 0x73), cr={"cr2": Masked(0)}),
        ),
        case("ud2 without an IDT", "0f0b", "ring0", idt_limit=0, expect=Expect(outcome="shutdown")),
        case(
            "every register arrives",
            "cd2f",
            "ring3",
            eax=1,
            ecx=2,
            edx=3,
            ebx=4,
            ebp=5,
            esi=6,
            edi=7,
            expect=Expect(
                trap=TrapExpect(0x2F),
                regs={
                    name: Masked(number)
                    for number, name in enumerate(("eax", "ecx", "edx", "ebx", "ebp", "esi", "edi"), 1)
                },
                segs={"ds": 0x7B, "es": 0x7B, "fs": 0, "gs": 0, "cs": 0x60, "ss": 0x68},
            ),
        ),
        case(
            "SYSENTER_CS is put back",
            "b974010000" + "0f32" + "cd2f",  # mov ecx, 0x174; rdmsr; int 0x2f
            "ring0",
            msrs=((0x174, 0x1234),),
            expect=Expect(regs={"eax": Masked(0x1234), "edx": Masked(0)}),
        ),
        case(
            "SYSENTER_CS of the next case",
            "b974010000" + "0f32" + "cd2f",
            "ring0",
            expect=Expect(regs={"eax": Masked(0), "edx": Masked(0)}),
        ),
    ]


def play(runner: Runner, cases: Sequence[Case]) -> dict[str, Observation]:
    """By name."""
    seen: dict[str, Observation] = {}
    runner.run(cases, lambda one, observation: seen.__setitem__(one.name, observation))
    return seen
