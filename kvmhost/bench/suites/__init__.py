"""One module a suite: its benchmarks as data, and what builds their subjects."""
