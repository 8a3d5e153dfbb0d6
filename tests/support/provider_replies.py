"""What the test provider is to answer, in no provider's format yet."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reply:
    """What to do with a request.

    Times are in seconds. ``cut_after``: bytes of the body before the line dies. ``tokens`` are the exact
    deltas of the text, ``token_delay_s`` is their distance. With a ``gate``, ``gate_after`` text tokens go
    out (none unless given) and the rest once it is set; an answer that is not streamed waits for it as a
    whole. ``hang_after_tokens`` counts the tokens of the reasoning, too.
    """

    text: str = ""
    status: int = 200
    error: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    hang: bool = False
    cut_after: int | None = None
    token_delay_s: float = 0.0
    hang_after_tokens: int | None = None
    usage: tuple[int, int] = (11, 7)
    reasoning: str | None = None
    raw: bytes | None = None
    tool_calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    tokens: list[str] | None = None
    gate_after: int | None = None
    gate: threading.Event | None = None

    @property
    def whole(self) -> str:
        """The text, also if it was given as tokens only."""
        return self.text or "".join(self.tokens or [])

    @property
    def text_tokens(self) -> list[str]:
        """The deltas of the text."""
        return split(self.text) if self.tokens is None else self.tokens

    @property
    def reasoning_tokens(self) -> list[str]:
        """The deltas of the reasoning."""
        return split(self.reasoning or "")


def split(text: str) -> list[str]:
    """The words of a text, each with the space before it."""
    return re.findall(r"\s*\S+|\s+", text)


def failure(status: int, message: str = "No.", *, code: str | None = None, **settings: Any) -> Reply:
    """An error; the provider's format says how it looks."""
    return Reply(status=status, error={"message": message, "type": "error", "code": code}, **settings)


UNAUTHORIZED = failure(401, "Incorrect API key provided.", code="invalid_api_key")
QUOTA = failure(429, "You exceeded your current quota.", code="insufficient_quota")
CONTEXT_LENGTH = failure(
    400, "This model's maximum context length is 10 tokens.", code="context_length_exceeded"
)
BAD_REQUEST = failure(400, "Unsupported value.", code="invalid_value")
NOT_FOUND = failure(404, "The model `nope` does not exist.", code="model_not_found")
SERVER_ERROR = failure(500, "The server had an error.")
UNAVAILABLE = failure(503, "Overloaded.")


def rate_limit(retry_after: str) -> Reply:
    """429 with a ``Retry-After`` header."""
    return failure(429, "Slow down.", code="rate_limit_exceeded", headers={"Retry-After": retry_after})
