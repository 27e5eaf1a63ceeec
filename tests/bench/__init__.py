"""Benchmarks: ours beside the limit of this machine, interleaved in one run. `make bench` writes `build/bench.json`."""
