"""Benchmarks, each run as `python -m worldloom_rl.benchmarks.<name>`."""
