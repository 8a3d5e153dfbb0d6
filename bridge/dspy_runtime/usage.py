"""Counting the tokens of LM calls: ``{"calls", "input_tokens", "output_tokens", "total_tokens"}``."""

from __future__ import annotations

from typing import Any

from dspy.utils.usage_tracker import UsageTracker

Usage = dict[str, int]


def no_usage() -> Usage:
    """The usage of nothing, every counter present."""
    return {"calls": 0, "input_tokens": 0, "output_tokens": 0, "total_tokens": 0}


def add(total: Usage, usage: Usage) -> None:
    """Count ``usage`` into ``total``."""
    for name, value in usage.items():
        total[name] += value


class CallUsage(UsageTracker):  # type: ignore[misc] # DSPy is untyped
    """What the LM calls of one program run cost. Answers from the cache count nothing, retried failures
    neither.

    DSPy deep-copies its settings here and there; a tracker that is copied would count into the void.
    """

    def __init__(self) -> None:
        super().__init__()
        self.usage = no_usage()

    def __deepcopy__(self, memo: dict[int, Any]) -> CallUsage:
        return self

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """Count one LM call; ``usage_entry`` is the provider's report in OpenAI's terms, possibly empty."""
        get = usage_entry.get
        inputs, outputs, both = get("prompt_tokens"), get("completion_tokens"), get("total_tokens")
        if not type(inputs) is type(outputs) is type(both) is int:  # as they mostly are
            inputs = _count(usage_entry, "prompt_tokens", "input_tokens")
            outputs = _count(usage_entry, "completion_tokens", "output_tokens")
            both = _count(usage_entry, "total_tokens")
        usage = self.usage
        usage["calls"] += 1
        usage["input_tokens"] += inputs
        usage["output_tokens"] += outputs
        usage["total_tokens"] += both or inputs + outputs

    def take(self) -> Usage:
        """The usage since the last ``take``."""
        usage, self.usage = self.usage, no_usage()
        return usage


def _count(entry: dict[str, Any], *names: str) -> int:
    for name in names:
        value = entry.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return int(value)
    return 0
