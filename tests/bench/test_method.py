"""How a group is sampled: long enough, warm, in turn and backwards, with what is subtracted beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bench.machines import Machine, Work, benchmark

from kvmhost.bench.benchmark import Benchmark, Sample, Subject, Unit
from kvmhost.bench.errors import WorkerBroke
from kvmhost.bench.method import (
    CYCLE_STEP,
    NORMAL,
    QUICK,
    STEPS,
    GroupRun,
    Mode,
    Progress,
    clock_step,
    measure,
    settled,
)
from kvmhost.bench.results import Series
from kvmhost.bench.statistics import interval

SHORT = Mode("short", 2, 4, 1, 100_000, 2, 6, 60.0)


def run(
    machine: Machine, benchmarks: list[Benchmark], works: list[Work] | dict[str, Subject | str], mode: Mode
) -> list[GroupRun]:
    made = works if isinstance(works, dict) else {work.name: work for work in works}
    return list(measure(benchmarks, machine.subjects(made), mode, clock=machine.clock))


def only(runs: list[GroupRun], name: str) -> list[Series]:
    return [series for one in runs for series in one.series if series.name == name]


def test_a_sample_is_long_beside_the_clocks_steps_and_as_long_as_the_mode_says() -> None:
    machine = Machine()
    work = Work(machine, "s/a", 3.0)
    (first, _) = only(run(machine, [benchmark("a")], [work], SHORT), "s/a")
    assert SHORT.sample_ns <= first.loops * 3.0 < 4 * SHORT.sample_ns
    assert first.loops & (first.loops - 1) == 0
    (coarse, _) = only(run(machine, [benchmark("a")], [work], replace(SHORT, sample_ns=1)), "s/a")
    assert STEPS * 20 <= coarse.loops * 3.0 < 4 * STEPS * 20


def test_a_first_time_that_is_long_says_nothing_of_the_others() -> None:
    machine = Machine()
    work = Work(machine, "s/a", 1000.0, slower=lambda number: 1.0 if number else 1e6)
    (first, _) = only(run(machine, [benchmark("a")], [work], SHORT), "s/a")
    assert first.loops == 128 and len(first.warmups) == 2 * SHORT.window


def test_cycles_are_long_beside_the_counters_steps() -> None:
    machine = Machine()
    (first, _) = only(
        run(
            machine,
            [benchmark("a", unit=Unit.CYCLES)],
            [Work(machine, "s/a", 100.0)],
            replace(SHORT, sample_ns=1),
        ),
        "s/a",
    )
    assert STEPS * CYCLE_STEP <= first.loops * 100 < 4 * STEPS * CYCLE_STEP


@pytest.mark.parametrize("unit", [Unit.BYTES, Unit.COUNT])
def test_what_is_no_time_is_asked_once(unit: Unit) -> None:
    machine = Machine()
    runs = run(machine, [benchmark("a", unit=unit)], [Work(machine, "s/a", 7.0)], SHORT)
    assert {series.loops for series in only(runs, "s/a")} == {1}


def test_what_costs_nothing_ends_the_search() -> None:
    machine = Machine()
    (first, _) = only(run(machine, [benchmark("a")], [Work(machine, "s/a", 0.0)], SHORT), "s/a")
    assert first.loops == 1 << 20 and first.values == (0.0,) * 4


def test_a_counting_machine_is_asked_for_one_operation() -> None:
    machine = Machine()
    work = Work(machine, "s/a", 40.0)
    (one,) = measure(
        [benchmark("a")], machine.subjects({"s/a": work}), NORMAL, icount=True, clock=machine.clock
    )
    assert {loops for _, loops in machine.asked} == {1}
    assert one.series[0].values == (40.0,) * 3 and one.series[0].stable


def test_a_counting_machine_does_not_repeat_what_is_slow_to_warm_it() -> None:
    """A quarter of a billion instructions are warm-up enough; what is short goes on until it settles."""
    machine = Machine()
    slow, quick = (
        Work(machine, name, each, slower=lambda number: 1 + 0.1 * number)
        for name, each in (("s/slow", 250e6), ("s/quick", 20e6))
    )
    works = {work.name: work for work in (slow, quick)}
    members = [benchmark("slow"), benchmark("quick")]
    (one,) = measure(members, machine.subjects(works), NORMAL, icount=True, clock=machine.clock)
    assert (slow.number, quick.number) == (1 + 3, 8 + 3)
    assert [series.stable for series in one.series] == [True, False]


def test_rounds_go_forth_and_back() -> None:
    machine = Machine()
    works = [Work(machine, f"s/{name}", 1000.0) for name in "abc"]
    run(machine, [benchmark(name) for name in "abc"], works, replace(SHORT, runs=1))
    order = "".join(name[-1] for name, _ in machine.asked[-12:])
    assert order == "abccbaabccba"


def test_a_drift_meets_all_alike() -> None:
    machine = Machine()
    works = [
        Work(machine, f"s/{name}", 1000.0, slower=lambda _: 1 + machine.now / 1e9) for name in ("a", "b")
    ]
    (one,) = run(machine, [benchmark("a"), benchmark("b")], works, replace(SHORT, runs=1, rounds=20))
    a, b = (interval([series.values]).middle for series in one.series)
    assert abs(a / b - 1) < 1e-5 and one.series[0].values[-1] > 1.001 * one.series[0].values[0]


def test_an_empty_benchmark_reads_nothing_within_its_interval() -> None:
    held = 0
    for seed in range(20):
        machine = Machine()
        machine.source.seed(seed)
        works = [Work(machine, f"s/{name}", 30.0, once=500.0, noise=2.0) for name in ("overhead", "empty")]
        group = [benchmark("overhead"), benchmark("empty", ["overhead"])]
        runs = run(machine, group, works, replace(NORMAL, sample_ns=10_000))
        found = interval([series.values for series in only(runs, "s/empty")])
        assert abs(found.middle) < 1.0
        held += found.holds(0.0)
    assert held >= 18


def test_what_is_subtracted_has_as_many_loops() -> None:
    machine = Machine()
    works = [Work(machine, "s/loop", 2.0, once=300.0), Work(machine, "s/slow", 5000.0, once=300.0)]
    runs = run(machine, [benchmark("loop"), benchmark("slow", ["loop"])], works, SHORT)
    (slow, _) = only(runs, "s/slow")
    assert slow.values == (4998.0,) * 4
    assert slow.overhead == pytest.approx(2.0 + 300.0 / slow.loops)
    assert ("s/loop", slow.loops) in machine.asked and only(runs, "s/loop")[0].loops > slow.loops


def test_what_is_subtracted_may_subtract_itself() -> None:
    machine = Machine()
    works = [Work(machine, f"s/{name}", each) for name, each in (("a", 8.0), ("b", 24.0), ("c", 124.0))]
    runs = run(machine, [benchmark("a"), benchmark("b", ["a"]), benchmark("c", ["b", "a"])], works, SHORT)
    assert {value for series in only(runs, "s/c") for value in series.values} == {100.0}


def test_counts_are_told_for_one_operation_without_what_is_subtracted() -> None:
    machine = Machine()
    works = [
        Work(machine, "s/overhead", 10.0, counts={"exits": (1, 0), "instructions": (3, 2)}),
        Work(machine, "s/a", 90.0, counts={"exits": (1, 1), "instructions": (3, 62), "ioctls": (0, 2)}),
    ]
    runs = run(machine, [benchmark("overhead"), benchmark("a", ["overhead"])], works, SHORT)
    (series, _) = only(runs, "s/a")
    assert series.counts == {"exits": (1.0,) * 4, "instructions": (60.0,) * 4, "ioctls": (2.0,) * 4}


def test_ratios_are_to_the_reference_of_the_same_round() -> None:
    machine = Machine()
    works = [Work(machine, "s/a", 100.0), Work(machine, "s/b", 150.0), Work(machine, "s/none", 0.0)]
    group = [
        benchmark("a", reference="s/a"),
        benchmark("b", reference="s/a"),
        replace(benchmark("none", reference="s/a")),
    ]
    (one, _) = run(machine, group, works, SHORT)
    assert [series.ratios for series in one.series] == [(), (1.5,) * 4, (0.0,) * 4]
    nothing = [replace(each, reference="s/none") for each in group]
    assert [series.ratios for series in run(machine, nothing, works, SHORT)[0].series] == [()] * 3


@pytest.mark.parametrize(
    ("values", "is_over"),
    [
        ([10.0], False),
        ([10.0, 10.0, 10.0], False),
        ([10.0, 10.0, 10.0, 10.0], True),
        ([40.0, 30.0, 20.0, 10.0], False),
        ([12.0, 11.5, 11.0, 10.5], False),
        ([10.0, 12.0, 12.0, 10.0], True),
        ([90.0, 80.0, 10.0, 10.01, 10.02, 10.0], True),
        ([0.0, 0.0, 0.0, 0.0], True),
    ],
)
def test_when_a_warm_up_is_over(values: list[float], is_over: bool) -> None:
    assert settled(values, 2) is is_over


def test_warming_up_takes_as_long_as_it_takes() -> None:
    machine = Machine()
    works = [
        Work(machine, "s/a", 100_000.0, slower=lambda number: 3 / (number + 1) if number < 9 else 0.3),
        Work(machine, "s/b", 100_000.0),
    ]
    (one,) = run(machine, [benchmark("a"), benchmark("b")], works, replace(NORMAL, runs=1, sample_ns=1))
    a, b = one.series
    assert a.stable and b.stable
    assert set(a.values) == {30_000.0} and len(a.values) == NORMAL.rounds
    assert max(a.warmups) > 50_000 and len(a.warmups) == len(b.warmups) < NORMAL.most


def test_what_never_settles_is_marked() -> None:
    machine = Machine()
    works = [Work(machine, "s/a", 1e5, slower=lambda number: 1.1**number), Work(machine, "s/b", 1e5)]
    (one,) = run(machine, [benchmark("a"), benchmark("b")], works, replace(SHORT, runs=1))
    assert [(series.stable, len(series.warmups)) for series in one.series] == [(False, 6), (True, 6)]


def test_what_is_slow_warms_itself_up_and_ends_in_time() -> None:
    machine = Machine()
    runs = run(machine, [benchmark("boot")], [Work(machine, "s/boot", 4e9)], NORMAL)
    series = only(runs, "s/boot")
    assert [(one.loops, one.warmups, one.values, one.stable) for one in series] == [
        (1, (), (4e9,) * NORMAL.least, True)
    ] * NORMAL.runs


def test_time_runs_out_in_the_warm_up_too() -> None:
    machine = Machine()
    work = Work(machine, "s/a", 2e8, slower=lambda number: 1.05**number)
    (one,) = run(machine, [benchmark("a")], [work], QUICK)
    assert not one.series[0].stable and 1 <= len(one.series[0].warmups) < QUICK.most
    assert len(one.series[0].values) < QUICK.rounds


def test_each_run_sets_the_group_up_and_takes_it_down() -> None:
    machine = Machine()
    work = Work(machine, "s/a", 1000.0)
    finished = measure([benchmark("a")], machine.subjects({"s/a": work}), SHORT, clock=machine.clock)
    assert next(finished).number == 0
    assert (machine.made, machine.closed) == (1, 1)
    assert next(finished).number == 1
    assert (machine.made, machine.closed) == (2, 2) and next(finished, None) is None


def test_what_is_interrupted_keeps_its_finished_runs() -> None:
    machine = Machine()
    once = Machine()
    run(once, [benchmark("a")], [Work(once, "s/a", 1000.0)], replace(SHORT, runs=1))
    work = Work(machine, "s/a", 1000.0, ends=len(once.asked) + 3, breaks=KeyboardInterrupt())
    kept = []
    with pytest.raises(KeyboardInterrupt):
        for each in measure([benchmark("a")], machine.subjects({"s/a": work}), SHORT, clock=machine.clock):
            kept.append(each)
    assert [len(each.series[0].values) for each in kept] == [4]
    assert (machine.made, machine.closed) == (2, 2)


def test_what_cannot_be_measured_says_why_and_the_others_go_on() -> None:
    machine = Machine()
    works: dict[str, Subject | str] = {
        "s/a": Work(machine, "s/a", 1000.0),
        "s/b": "there is no SYSENTER",
        "s/c": Work(machine, "s/c", 1000.0, ends=0),
        "s/d": Work(machine, "s/d", 1000.0),
        "s/e": Work(machine, "s/e", 1000.0),
        "s/f": Work(machine, "s/f", 1000.0, ends=10),
    }
    group = [benchmark(name) for name in "abc"]
    group += [benchmark("d", ["c"]), benchmark("e", ["d"]), benchmark("f")]
    (one,) = run(machine, group, works, replace(SHORT, runs=1))
    assert [series.name for series in one.series] == ["s/a"]
    assert one.unmeasured["s/b"] == "there is no SYSENTER"
    assert one.unmeasured["s/c"] == one.unmeasured["s/f"] == "the machine has had enough"
    assert one.unmeasured["s/d"].startswith("s/c, which is subtracted, has no figure")
    assert one.unmeasured["s/e"].startswith("s/d, which is subtracted")


@pytest.mark.parametrize(
    ("group", "sample", "said"),
    [
        ([benchmark("a", ["a"])], Sample(1e9, 1), "from itself"),
        ([benchmark("a", ["z"])], Sample(1e9, 1), "not in its group"),
        ([benchmark("a"), benchmark("b")], Sample(1e9, 1), "made nothing"),
        ([benchmark("a")], Sample(float("nan"), 1), "gave nan"),
        ([benchmark("a")], Sample(1e9, 0), "for 0 operations"),
    ],
)
def test_contradictions_are_faults_of_ours(group: list[Benchmark], sample: Sample, said: str) -> None:
    class Same:
        def sample(self, loops: int) -> Sample:
            return sample

    machine = Machine()
    with pytest.raises(WorkerBroke, match=said):
        run(machine, group, {"s/a": Same()}, SHORT)
    assert machine.made == machine.closed == 1


def test_progress_goes_on_to_the_end() -> None:
    machine = Machine()
    heard: list[Progress] = []
    work = Work(machine, "s/a", 1000.0)
    subjects = machine.subjects({"s/a": work})
    list(measure([benchmark("a")], subjects, SHORT, clock=machine.clock, progress=heard.append))
    done = [each.done for each in heard]
    assert done == sorted(done) and done[0] == 0 and 0.8 < done[-1] <= 1
    assert {each.run for each in heard} == {1, 2} and {each.group for each in heard} == {"g"}


def test_a_clocks_step_is_seen() -> None:
    assert clock_step(Machine().clock) == 20
    assert clock_step(lambda: 7, tries=1) == 1
