"""``stream_predict_batch``: one program over many inputs, an answer for each as soon as it is there."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from bridge.context import Context
from bridge.dspy_runtime.specs import AdapterName, CallConfig, LmSpec, Name, SignatureSpec, config_kwargs
from bridge.errors import BridgeError, Code, debug_details, invalid_args
from bridge.registry import command
from bridge.wire.messages import Chunk, FinalChunk

if TYPE_CHECKING:
    from bridge.dspy_runtime.batch import Outcome

MAX_CONCURRENCY = 1024


class BatchArgs(msgspec.Struct, forbid_unknown_fields=True):
    """Either ``signature`` or ``program``, and the ``items``: one object of input fields each.

    ``order``: results as in ``items``, or as they are completed. ``max_errors``: so many failed items end
    the batch.
    """

    items: list[dict[str, Any]]
    signature: str | SignatureSpec | None = None
    program: str | None = None
    module: Literal["predict", "chain_of_thought"] = "predict"
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=MAX_CONCURRENCY)] = 8
    order: Literal["input", "completion"] = "input"
    max_errors: Annotated[int, msgspec.Meta(ge=1)] | None = None
    lm: Name | LmSpec | None = None
    adapter: AdapterName | None = None
    config: CallConfig | None = None


class Prediction(Chunk):
    """One item's output. ``progress``: item chunks sent, this one included, of all items."""

    index: int
    total: int
    input: dict[str, Any]
    output: dict[str, Any]
    progress: float
    usage: dict[str, int]


class ItemError(Chunk, tag="error"):
    """One item failed; the others go on. ``usage``: what its calls cost all the same."""

    index: int
    total: int
    input: dict[str, Any]
    error: str
    code: str
    retryable: bool
    progress: float
    usage: dict[str, int]
    retry_after_ms: int | msgspec.UnsetType = msgspec.UNSET
    details: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class BatchComplete(FinalChunk, tag="complete"):
    """All items are through, or ``stopped`` is true (``max_errors`` was reached).

    ``usage``: of all items, the failed ones and those that were cancelled midway included.
    """

    total: int
    succeeded: int
    failed: int
    elapsed_ms: int
    usage: dict[str, int]
    stopped: bool | msgspec.UnsetType = msgspec.UNSET


@command("stream_predict_batch")
async def stream_predict_batch(
    args: BatchArgs, ctx: Context
) -> AsyncIterator[Prediction | ItemError | BatchComplete]:
    """Predict every item of a list with one signature, up to ``concurrency`` at a time.

    An item that fails is answered with an ``error`` chunk and stops nothing. Usage counts
    ``{"calls", "input_tokens", "output_tokens", "total_tokens"}``; answers from the cache count nothing.
    """
    started = time.monotonic()
    _check(args)
    from bridge.dspy_runtime import loader

    runtime = await loader.runtime(ctx.options)
    with runtime.lms.lease(args.lm, args.adapter) as lease:
        for name, value in lease.terminal_fields.items():
            ctx.label(name, value)
        from bridge.dspy_runtime import predictor
        from bridge.dspy_runtime.batch import Batch

        assert args.signature is not None  # _check
        compiled = runtime.signatures.compile(args.signature)
        effort = args.config.reasoning_effort if args.config else None
        module = predictor.make_module(args.module, compiled, lease, effort)
        runner = predictor.ItemRunner(
            module,
            compiled,
            args.items,
            config_kwargs(args.config),
            predictor.settings(runtime, lease),
            lease,
        )
        total = len(args.items)
        batch = Batch(total, args.concurrency, ordered=args.order == "input", max_errors=args.max_errors)
        tally = _Tally(args.items, debug=ctx.options.debug)
        outcomes = batch.run(runner.worker)
        try:
            async for outcome in outcomes:
                yield tally.chunk(outcome)
        finally:
            await outcomes.aclose()
        tally.count(runner.unfinished)
        yield tally.complete(time.monotonic() - started, stopped=batch.stopped)


class _Tally:
    """Counts outcomes and words them."""

    def __init__(self, items: list[dict[str, Any]], *, debug: bool) -> None:
        self._items = items
        self._debug = debug
        self._total = len(items)
        self._sent = 0
        self._failed = 0
        self._usage = {"calls": 0, "input_tokens": 0, "output_tokens": 0, "total_tokens": 0}

    def count(self, usage: dict[str, int]) -> None:
        """Add ``usage`` to the batch's."""
        for name, value in usage.items():
            self._usage[name] += value

    def chunk(self, outcome: Outcome) -> Prediction | ItemError:
        """The chunk for one item."""
        self._sent += 1
        self.count(outcome.usage)
        progress = self._sent / self._total
        index, source = outcome.index, self._items[outcome.index]
        if outcome.error is not None:
            self._failed += 1
            return ItemError(
                index=index,
                total=self._total,
                input=source,
                progress=progress,
                usage=outcome.usage,
                **self._told(outcome.error),
            )
        return Prediction(
            index=index,
            total=self._total,
            input=source,
            output=outcome.output or {},
            progress=progress,
            usage=outcome.usage,
        )

    def _told(self, error: BridgeError) -> dict[str, Any]:
        told = error.to_chunk()
        del told["type"]
        if self._debug:
            told["details"] = {**told.get("details", {}), **debug_details(error)}
        return told

    def complete(self, seconds: float, *, stopped: bool) -> BatchComplete:
        """The closing chunk."""
        return BatchComplete(
            total=self._total,
            succeeded=self._sent - self._failed,
            failed=self._failed,
            elapsed_ms=round(seconds * 1000),
            usage=self._usage,
            stopped=True if stopped else msgspec.UNSET,
        )


def _check(args: BatchArgs) -> None:
    if args.signature is not None and args.program is not None:
        raise invalid_args('"signature" and "program" exclude each other.', "$.args.program")
    if args.program is not None:
        raise BridgeError(f"Unknown program: {args.program[:200]}", code=Code.UNKNOWN_PROGRAM)
    if args.signature is None:
        raise invalid_args('"signature" is missing, for example "text -> completion".', "$.args.signature")
