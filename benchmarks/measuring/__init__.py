"""What the benchmarks share: environments, models in every contestant's format, rounds, statistics, reports.

`worker.py` runs inside the contestants' environments and uses the standard library alone.
"""
