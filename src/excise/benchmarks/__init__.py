"""Capability benchmarks of lm-evaluation-harness, which the extra `eval` installs."""
