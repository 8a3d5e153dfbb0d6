"""Clients for Python hosts: asyncio (:class:`Client`, :class:`Pool`) and blocking (:class:`SyncClient`,
:class:`SyncPool`).

>>> async with Client("--model", "scripted") as client:
...     async for chunk in client.stream("stream_predict", {"question": "Why is the sky blue?"}):
...         print(chunk.type)
"""

from __future__ import annotations

from bridge.client.chunks import (
    Chunk,
    Complete,
    Failure,
    FinalAnswer,
    Observation,
    Prediction,
    ReasoningStep,
    Restart,
    Result,
    Thinking,
    Thought,
    Token,
    ToolCall,
)
from bridge.client.client import Client
from bridge.client.errors import ClientClosed, ProtocolError, RequestError, StartFailed, WorkerDied
from bridge.client.pool import Pool
from bridge.client.stream import Stream
from bridge.client.sync import SyncClient, SyncPool, SyncStream
from bridge.client.tools import Tool

__all__ = [
    "Chunk",
    "Client",
    "ClientClosed",
    "Complete",
    "Failure",
    "FinalAnswer",
    "Observation",
    "Pool",
    "Prediction",
    "ProtocolError",
    "ReasoningStep",
    "RequestError",
    "Restart",
    "Result",
    "StartFailed",
    "Stream",
    "SyncClient",
    "SyncPool",
    "SyncStream",
    "Thinking",
    "Thought",
    "Token",
    "Tool",
    "ToolCall",
    "WorkerDied",
]
