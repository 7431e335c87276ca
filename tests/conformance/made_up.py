"""A run that never was, with one of everything that a report must be able to tell."""

from kvmhost.conformance.results import (
    Absent,
    Boundary,
    CaseResult,
    CodeLine,
    Deviation,
    Difference,
    Environment,
    Mutant,
    MutationMatrix,
    NmiMap,
    RowResult,
    Run,
    StateLine,
    Status,
    Verdict,
)

HOSTILE = "<script>alert('x')</script> & \"quotes\" ]]> \x1b[31m \x00 \u2028 \ud800 # not ok"
KVM = Environment(
    runner="kvm",
    class_code="AS",
    engine="kvm_amd",
    cpu="AMD Phenom(tm) 9550",
    kernel="6.1.0-50-amd64",
    backend="lab",
    masked=("DV-10", "DV-12"),
    facts=(("vendor", "AuthenticAMD"), ("npt", "N"), ("PROBE-6 segment limit enforced", "no")),
    seconds=41.5,
    engine_seconds=33.0,
    starts=3,
)
TCG = Environment(
    "tcg", "TCG", "QEMU 7.2", masked=("DV-01", "DV-02"), seconds=2.5, engine_seconds=2.0, starts=2
)


def case(name: str, runner: str, status: Status = Status.PASS, **more: object) -> CaseResult:
    return CaseResult(name, "L1", runner, status, **more)  # type: ignore[arg-type]


FAILURE = case(
    "int 3 from ring 1",
    "kvm",
    Status.FAIL,
    outcome="trap 13",
    differences=(Difference("vector", "0x3", "0xd"), Difference("error", "none", "0x1a")),
    state=(
        StateLine("vector", "0x3", "0xd", False),
        StateLine("error", "none", "0x1a", False),
        StateLine("eax", "0xa0a0a0a0", "0xa0a0a0a0", True),
        StateLine("ebx", "", "0xb3b3b3b3", True),
    ),
    listing=(CodeLine(0x416000, "cc", "int3", "G_CODE"), CodeLine(0x416001, "cd2f", "int 0x2f", "stop")),
    around=(CodeLine(0x416000, "cc", "int3", "here"),),
    steps=(CodeLine(0x40D010, "cf", "iret", "HOST_CODE+16"), CodeLine(0x416000, "cc", "int3", "G_CODE")),
    repeated=3,
    failed=2,
)


def row(id: str, *cases: CaseResult, **more: object) -> RowResult:
    given: dict[str, object] = {
        "title": f"what {id} shows",
        "kind": "P",
        "core": True,
        "sources": ("Intel SDM vol. 3 (325462-083US): “Gate Descriptors”",),
        "why": "the manual says so",
        "seen_to_fail_by": ("M07",),
        "cases": cases,
    }
    return RowResult(id, **({"group": id.rsplit("-", 1)[0]} | given | more))  # type: ignore[arg-type]


NAMES = ("pushf", "lcall [ebx]", "push es", "lgdt [edx]", "lidt [edx+8]", "mov edx, 0x80", "ltr dx", "iret")


def nmi_map(switcher: str, fatal: str = "") -> NmiMap:
    def verdict(number: int) -> Verdict:
        if f"B{number:02}" == fatal:
            return Verdict.FATAL
        return Verdict.HANDLED if number < 3 else Verdict.SAFE

    return NmiMap(
        switcher,
        f"L2-{switcher}",
        "kvm",
        tuple(
            Boundary(
                f"B{n:02}",
                0xFFC00000 + 4 * n,
                text,
                verdict(n),
                verdict(n),
                "enter",
                "shutdown" * (f"B{n:02}" == fatal),
            )
            for n, text in enumerate(NAMES)
        ),
    )


def run(**changes: object) -> Run:
    given: dict[str, object] = {
        "version": "0.1.0",
        "started": "2026-11-22T18:40:00Z",
        "seconds": 45.0,
        "words": ("conform", "--runner", "all"),
        "selection": "the core set",
        "seed": 1,
        "repeat": 1,
        "environments": (KVM, TCG),
        "rows": (
            row("SW-ENT-001", case("call", "kvm"), case("call", "tcg")),
            row("VEC-002", FAILURE, case("int 3 from ring 1", "tcg")),
            row(
                "SEN-010",
                case("rf", "kvm"),
                case(
                    "rf",
                    "tcg",
                    Status.XFAIL,
                    because="DV-02",
                    differences=(Difference("eflags", "0x10002", "0x2"),),
                ),
            ),
            row(
                "SW-CR3-006",
                case("global", "kvm", alternative="the entry was still cached"),
                case("global", "tcg", Status.NOT_DEMONSTRABLE, because="DV-05"),
                title=HOSTILE,
            ),
            row(
                "KVM-001",
                case("capabilities", "kvm"),
                case("capabilities", "tcg", Status.SKIP, because="kvm"),
                kind="K",
            ),
            row("SGM-009", case("gdt", "kvm", Status.UNSUPPORTED, because="no 32-bit paging"), core=False),
            row(
                "DBG-011",
                case("all", "kvm", Status.NOT_WRITTEN, because=HOSTILE),
                core=False,
                waits_for=HOSTILE,
                seen_to_fail_by=(),
            ),
        ),
        "absent": (Absent("bochs", "there is no program called bochs", "install Debian's package bochs"),),
        "nmi_maps": (nmi_map("seed", "B04"), nmi_map("hardened")),
        "matrix": MutationMatrix(
            "tcg",
            "2026-11-22",
            (
                Mutant("M07", "LGDT and LIDT swapped", "L2-hardened", ("VEC-002", "SW-ENT-001")),
                Mutant("M08", HOSTILE, "product", ()),
            ),
        ),
        "deviations": (
            Deviation("DV-02", "TCG", "the image of EFLAGS has RF=0", "measured"),
            Deviation("DV-05", "TCG", "MOV CR3 drops global entries too"),
        ),
    }
    return Run(**(given | changes))  # type: ignore[arg-type]
