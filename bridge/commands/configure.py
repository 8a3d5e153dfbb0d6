"""``configure``: naming language models."""

from __future__ import annotations

from typing import Annotated

import msgspec

from bridge.context import Context
from bridge.dspy_runtime.specs import AdapterName, LmSpec
from bridge.errors import BridgeError, invalid_args
from bridge.registry import command
from bridge.wire.messages import FinalChunk


class ConfigureArgs(msgspec.Struct, forbid_unknown_fields=True):
    """``lm``: the model and its settings; without it the named LM keeps its own and gets the ``adapter``."""

    lm: LmSpec | None = None
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] = "default"
    adapter: AdapterName | None = None


class Configured(FinalChunk, tag="result"):
    """What the name now stands for. ``scripted``: its answers are canned."""

    name: str
    model: str
    provider: str
    adapter: str
    scripted: bool | msgspec.UnsetType = msgspec.UNSET


@command("configure", state="name")
async def configure(args: ConfigureArgs, ctx: Context) -> Configured:
    """Name a language model for later requests.

    What the name stood for before goes on serving the requests that run with it and is then closed. A
    configuration that can not work changes nothing.
    """
    if args.lm is None and args.adapter is None and args.name == "default":
        raise _nothing()
    from bridge.dspy_runtime import loader

    runtime = await loader.runtime(ctx.options)
    done = runtime.lms.configure(args.name, args.lm, args.adapter)  # of an unknown name that is the error
    if args.lm is None and args.adapter is None:
        raise _nothing()
    return Configured(**done)


def _nothing() -> BridgeError:
    return invalid_args('There is nothing to configure: give "lm", "adapter" or both.', "$.args")
