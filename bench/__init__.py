"""Benchmarks: one file a figure, each run as ``python -m bench.NAME`` from the repository's root."""
