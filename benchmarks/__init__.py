"""Benchmarks against other projects: each contender runs in separate processes; results are ratios within one run."""
