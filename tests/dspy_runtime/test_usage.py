"""Counting tokens."""

from __future__ import annotations

import copy

from bridge.dspy_runtime.usage import CallUsage, no_usage


def test_counts_calls_and_tokens() -> None:
    usage = CallUsage()
    usage.add_usage(
        "m", {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 14, "prompt_tokens_details": None}
    )
    usage.add_usage("m", {"input_tokens": 1, "output_tokens": 2})
    usage.add_usage("m", {"prompt_tokens": None, "completion_tokens": True})
    usage.add_usage("m", {})
    assert usage.take() == {"calls": 4, "input_tokens": 11, "output_tokens": 5, "total_tokens": 17}
    assert usage.take() == no_usage()


def test_a_copy_counts_for_the_original() -> None:
    usage = CallUsage()
    copy.deepcopy({"usage_tracker": usage})["usage_tracker"].add_usage("m", {"prompt_tokens": 1})
    assert usage.take()["input_tokens"] == 1
