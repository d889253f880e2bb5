"""Benchmarks, one file a figure: ``python -m bench.NAME`` from the repository's root."""
