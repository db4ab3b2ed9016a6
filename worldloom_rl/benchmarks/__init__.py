"""Benchmarks: `python -m worldloom_rl.benchmarks --help`."""
