"""Benchmarks of the worker, each beside a floor measured in the same run: ``python -m tests.benchmarks``."""
