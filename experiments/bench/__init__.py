"""Benchmarks: ratios against peers, all of them measured in turns within one run."""
