"""Requests to the test provider, read alike whatever provider's format they are in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class Recorded:
    """A request as it came: header names in lower case, the body decoded if it is JSON, and its bytes."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    raw: bytes = b""

    @property
    def user(self) -> str:
        """The text of the last user message."""
        return next((text for role, text in reversed(list(self._messages())) if role == "user"), "")

    @property
    def system(self) -> str:
        """The system text."""
        return "\n".join(text for role, text in self._messages() if role == "system")

    @property
    def messages_text(self) -> str:
        """The text of all messages, those of the system and of tools, too."""
        return "\n".join(text for _, text in self._messages())

    @property
    def tools(self) -> list[str]:
        """Names of the tools that are offered natively."""
        return [
            str(function["name"])
            for tool in self._fields.get("tools") or []
            for function in tool.get("functionDeclarations") or [tool.get("function") or tool]
        ]

    @property
    def model(self) -> str:
        """The model's name, which Gemini has in the path."""
        if "contents" in self._fields:
            return self.path.rpartition("/models/")[2].partition(":")[0]
        return str(self._fields.get("model", "?"))

    @property
    def streamed(self) -> bool:
        """Whether the answer is to be a stream."""
        return ":streamGenerateContent" in self.path or bool(self._fields.get("stream"))

    @property
    def _fields(self) -> dict[str, Any]:
        return self.body if isinstance(self.body, dict) else {}

    def _messages(self) -> Iterator[tuple[str, str]]:
        """Roles and texts. Results are of role ``tool``, also where the format has them in user messages."""
        system = self._fields.get("system") or self._fields.get("systemInstruction", {}).get("parts")
        if system:
            yield "system", _text(system)
        for message in self._fields.get("messages") or self._fields.get("contents") or []:
            role = {"developer": "system", "model": "assistant"}.get(message["role"], message["role"])
            content = message.get("content", message.get("parts"))
            if not isinstance(content, list):
                yield role, _text(content)
                continue
            results = [part for part in content if _result(part) is not None]
            for part in results:
                yield "tool", _text(_result(part))
            if not results or len(results) < len(content):
                yield role, _text([part for part in content if part not in results])


def _result(part: dict[str, Any]) -> Any:
    """What a tool answered, if that is what the part holds."""
    if part.get("type") == "tool_result":
        return part.get("content", "")
    if "functionResponse" in part:
        return "".join(map(str, part["functionResponse"]["response"].values()))
    return None


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text") or part.get("thinking") or "" for part in content)
