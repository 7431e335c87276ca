"""What would spoil a figure is found, named and cured; a quiet machine has nothing of it."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from bench.trees import CLOCK, CPU, CPUINFO, QUIET, plant, plant_files

from kvmhost.bench import spoilers
from kvmhost.bench.errors import BenchError, SelectionError, Spoiled
from kvmhost.bench.spoilers import Counters, Look, find, meanwhile
from kvmhost.bench.sysfs import Sys

CALM = Look((1,), {0: 0.01, 1: 0.0, 2: 0.02, 3: 0.01}, 0.0, {1: (3500.0, 3500.0)})


def names(seen: Look, machine: Sys, cpu: int | None = 1) -> list[str]:
    found = find(seen, cpu, machine)
    assert all(one.seen and one.next_step for one in found)
    return [one.name for one in found]


def test_a_quiet_machine_spoils_nothing(tmp_path: Path) -> None:
    assert names(CALM, plant(tmp_path)) == []
    spoilers.refuse(find(CALM, 1, plant(tmp_path)))


def test_a_machine_that_tells_nothing_is_not_accused(tmp_path: Path) -> None:
    assert names(Look(), Sys(tmp_path), None) == []


@pytest.mark.parametrize(
    ("name", "seen", "cpu", "files"),
    [
        ("affinity", replace(CALM, affinity=(0, 1)), None, {}),
        ("governor", CALM, 1, {f"{CPU}/cpu1/cpufreq/scaling_governor": "powersave\n"}),
        ("frequency", replace(CALM, mhz={1: (2000.0, 3500.0)}), 1, {}),
        ("turbo", CALM, 1, {f"{CPU}/cpufreq/boost": "1\n"}),
        ("turbo", CALM, 1, {f"{CPU}/intel_pstate/no_turbo": "0\n"}),
        ("load", replace(CALM, busy={1: 0.3}), 1, {}),
        ("sibling", replace(CALM, busy={3: 0.2}), 1, {}),
        ("neighbours", replace(CALM, busy={0: 0.2, 2: 0.2}), 1, {}),
        ("steal", replace(CALM, stolen=0.05), 1, {}),
        ("clocksource", CALM, 1, {CLOCK: "hpet\n"}),
        ("tsc", CALM, 1, {"proc/cpuinfo": CPUINFO.replace("nonstop_tsc", "")}),
        ("tsc", CALM, 1, {"proc/cpuinfo": CPUINFO.replace("constant_tsc", "")}),
        ("battery", replace(CALM, battery=True), 1, {}),
    ],
)
def test_each_spoiler_is_found_alone(
    tmp_path: Path, name: str, seen: Look, cpu: int | None, files: dict[str, str | None]
) -> None:
    machine = plant_files(tmp_path, {**QUIET, **files})
    assert names(seen, machine, cpu) == [name]
    with pytest.raises(Spoiled, match=name) as caught:
        spoilers.refuse(find(seen, cpu, machine))
    assert caught.value.cause and name in caught.value.next_step


def test_another_cpus_governor_is_nothing_to_us(tmp_path: Path) -> None:
    machine = plant_files(tmp_path, {**QUIET, f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave\n"})
    assert names(CALM, machine) == []
    assert names(replace(CALM, affinity=(0,)), machine, None) == ["governor"]


@pytest.mark.parametrize("source", ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page"])
def test_good_clocks(tmp_path: Path, source: str) -> None:
    assert names(CALM, plant_files(tmp_path, {**QUIET, CLOCK: source})) == []


def test_what_happened_meanwhile(tmp_path: Path) -> None:
    before = Counters({0: 3, 1: 3}, 5.0, 1000.0)
    assert meanwhile(before, Counters({0: 3, 1: 3}, 5.0, 1060.0)) == ()
    (hot,) = meanwhile(before, Counters({0: 3, 1: 4}, 5.0, 1060.0))
    assert hot.name == "throttling" and "CPU 1" in hot.seen
    (taken,) = meanwhile(before, Counters({0: 3, 1: 3}, 11.0, 1060.0))
    assert taken.name == "steal" and "10.0%" in taken.seen
    assert meanwhile(before, Counters({7: 9}, 5.0, 1000.0)) == ()


def test_counters_are_read_from_every_cpu(tmp_path: Path) -> None:
    machine = plant(tmp_path, **{f"{CPU}/cpu2/thermal_throttle/package_throttle_count": "39\n"})
    found = spoilers.counters(machine)
    assert found.throttled == {0: 3, 1: 3, 2: 42, 3: 3} and found.elapsed > 0
    assert spoilers.counters(Sys(tmp_path / "none")).throttled == {}


def test_a_look_at_this_machine() -> None:
    seen = spoilers.look(0.01)
    assert seen.affinity == tuple(sorted(os.sched_getaffinity(0)))
    assert seen.busy and all(0 <= share <= 1 for share in seen.busy.values()) and 0 <= seen.stolen <= 1


def test_a_look_survives_what_psutil_does_not_find(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(psutil, "cpu_freq", nothing)
    monkeypatch.setattr(psutil, "sensors_battery", nothing)
    seen = spoilers.look(0.01)
    assert seen.mhz == {} and not seen.battery


def test_clocks_that_are_there(tmp_path: Path) -> None:
    spoilers.need_clocks(plant(tmp_path))
    spoilers.need_clocks(Sys(tmp_path / "none"))


def test_a_cpu_without_a_counter(tmp_path: Path) -> None:
    machine = plant_files(tmp_path, {"proc/cpuinfo": "flags : fpu msr\n"})
    with pytest.raises(BenchError, match="no time-stamp counter") as caught:
        spoilers.need_clocks(machine)
    assert caught.value.cause and "--backend lab" in caught.value.next_step


def test_a_missing_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(number: int) -> float:
        if number == time.CLOCK_THREAD_CPUTIME_ID:
            raise OSError(22, "Invalid argument")
        return 1e-9

    monkeypatch.setattr(time, "clock_getres", missing)
    with pytest.raises(BenchError, match="no CLOCK_THREAD_CPUTIME_ID") as caught:
        spoilers.need_clocks(plant(tmp_path))
    assert caught.value.cause == "Invalid argument" and caught.value.next_step


def test_a_coarse_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "clock_getres", lambda number: 0.004)
    with pytest.raises(BenchError, match=r"CLOCK_MONOTONIC is too coarse .* 4\.0 ms"):
        spoilers.need_clocks(plant(tmp_path))


def test_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.sched_getaffinity(0)
    try:
        spoilers.bind(min(allowed))
        assert os.sched_getaffinity(0) == {min(allowed)}
        with pytest.raises(SelectionError, match="CPU 9999 cannot be measured on") as caught:
            spoilers.bind(9999)
        assert caught.value.cause and str(min(allowed)) in caught.value.next_step
        for wrong in (-1, 1 << 70):
            with pytest.raises(SelectionError):
                spoilers.bind(wrong)
    finally:
        os.sched_setaffinity(0, allowed)
