"""Ratios against named baselines; each module runs by itself (`python -m benchmarks.limiter`)."""
