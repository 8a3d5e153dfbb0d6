"""What an operator can set when starting a worker: one Struct holds the names and the defaults."""

from __future__ import annotations

import msgspec

MIB = 1024 * 1024


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one worker process. Sizes are in bytes, times in the unit their name ends with."""

    workers: int = 1
    framing: str = "lines"
    commands: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    #: Pairs of a server's name and the words that start it.
    mcp: tuple[tuple[str, tuple[str, ...]], ...] = ()
    log_level: str = "warning"
    log_format: str = "json"
    log_file: str | None = None
    debug: bool = False

    model: str | None = None
    api_base: str | None = None
    adapter: str = "chat"
    script: str | None = None
    script_tokens_per_s: float = 0.0
    cache_dir: str | None = None
    memory_cache_entries: int = 10_000
    preload: bool = False

    max_line_bytes: int = 8 * MIB
    max_depth: int = 128
    max_inflight: int = 1024
    max_queued: int = 4096
    max_queued_bytes: int = 64 * MIB

    max_requests: int | None = None
    max_rss_mb: int | None = None
    max_age_s: float | None = None
    hung_after_s: float = 30.0
    retry_died: bool = False
    grace_ms: int = 30_000
    die_with_parent: bool = False
    parent_watch: bool = True

    def limits(self) -> dict[str, int]:
        """The limits as ``ready`` and ``describe`` tell them."""
        return {
            "max_line_bytes": self.max_line_bytes,
            "max_depth": self.max_depth,
            "max_inflight": self.max_inflight,
            "max_queued": self.max_queued,
            "max_queued_bytes": self.max_queued_bytes,
        }
