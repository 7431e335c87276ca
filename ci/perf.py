"""Measure two builds of kvmhost in turn and compare them: the second half of ci/perf.

python ci/perf.py PYTHON BASE [NAME ...]: PYTHON has the other build.  This one is the Python that runs this.
"""

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from kvmhost.bench import compare, pyperf_read
from kvmhost.bench.report import text
from kvmhost.bench.results import Report, Result

SUITES = ("switch", "exit", "trap", "paging")
#: The other build, this one, this one, the other: a machine that slows down slows down both.
ORDER = ("base", "this", "this", "base")
SLOWER = 1


def measure(python: str, names: list[str], target: Path) -> Report:
    """One run of a build's own bench.  Without a result the process ends with that bench's exit code."""
    line = [python, "-P", "-m", "kvmhost", "bench", "--quick", *names, "--json", str(target)]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(done.returncode)
    return pyperf_read.read(target)


def together(reports: list[Report]) -> Report:
    """The runs of several reports of one build as one."""
    first, *rest = reports
    return replace(first, results=tuple(joined(one, rest) for one in first.results))


def joined(result: Result, others: list[Report]) -> Result:
    """One benchmark with the runs it has elsewhere."""
    more = [found.runs for other in others if (found := other.find(result.name)) is not None]
    return replace(result, runs=sum(more, result.runs))


def main(other: str, base: str, *names: str) -> int:
    pythons = {"base": other, "this": sys.executable}
    reports: dict[str, list[Report]] = {"base": [], "this": []}
    with tempfile.TemporaryDirectory() as folder:
        for number, build in enumerate(ORDER):
            print(f"ci/perf: run {number + 1} of {len(ORDER)}: {build}", file=sys.stderr, flush=True)
            target = Path(folder, f"{number}.json")
            reports[build].append(measure(pythons[build], list(names or SUITES), target))
    comparison = compare.compare(together(reports["base"]), together(reports["this"]))
    print(text.render_comparison(f"commit {base[:12]}", comparison), end="")
    return SLOWER if comparison.lost else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
