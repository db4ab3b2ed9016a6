"""What `python tests/benchmarks` measures, and how; the folder above is where imports of it start."""
