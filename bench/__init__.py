"""Benchmarks. Run them from the repository root: python -m bench.operator, python -m bench.trial."""
