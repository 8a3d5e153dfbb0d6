"""Language models: interned by configuration, known by name, closed when nobody needs them any more."""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from bridge.dspy_runtime import lm_build
from bridge.dspy_runtime.errors import not_configured
from bridge.dspy_runtime.specs import LmSpec
from bridge.errors import BridgeError, Code
from bridge.redact import redact_secrets

if TYPE_CHECKING:
    import dspy

    from bridge.options import ServeOptions

DEFAULT = "default"
#: How many inline LMs stay open for the next request that names the same.
MAX_IDLE_INLINE = 64
#: dspy's native engines open at most this many connections per LM object.
CONNECTIONS_PER_LM = 100

_log = logging.getLogger("bridge.lm")


class InternedLm:
    """One configuration of an LM, shared by all requests that use it."""

    def __init__(self, key: bytes, spec: LmSpec, options: ServeOptions) -> None:
        self.key = key
        self.spec = spec
        self.scripted = lm_build.is_scripted(spec.model)
        self.names: set[str] = set()
        self.leases = 0
        #: It lost its last name and nobody asked for it since: closed rather than kept for later.
        self.retired = False
        self._options = options
        # One object per so many calls at the same time, and how many each has.
        self._lanes: list[dspy.LM] = [lm_build.build(spec, options)]
        self._used = [0]
        # A key that was given as a model's name must not be told, nor a part of it.
        self.model = redact_secrets(spec.model)
        self.provider = lm_build.provider_of(self.model)
        self._pooled = not self.scripted and lm_build.is_plain(self._lanes[0])

    @property
    def lm(self) -> dspy.LM:
        """The LM, to ask about; calls are made with that of a :meth:`connection`."""
        return self._lanes[0]

    @contextmanager
    def connection(self) -> Iterator[dspy.LM]:
        """The LM to make one call at a time with, so that no call waits for another's connection."""
        if not self._pooled:
            yield self._lanes[0]
            return
        index = next((i for i, used in enumerate(self._used) if used < CONNECTIONS_PER_LM), len(self._used))
        if index == len(self._lanes):
            self._lanes.append(lm_build.build(self.spec, self._options))
            self._used.append(0)
        self._used[index] += 1
        try:
            yield self._lanes[index]
        finally:
            self._used[index] -= 1

    async def aclose(self) -> None:
        """Close the connections."""
        lanes, self._lanes = self._lanes, self._lanes[:1]
        for lane in lanes:
            try:
                await lane.aclose()
            except Exception:  # noqa: BLE001 - one that can not be closed must not keep the others open
                _log.warning("closing connections to %s failed", self.model, exc_info=True)


class Lease:
    """An LM and an adapter, held by one request."""

    def __init__(self, interned: InternedLm, adapter: str) -> None:
        self.interned = interned
        self.adapter = adapter

    @property
    def lm(self) -> dspy.LM:
        """The LM, to ask about."""
        return self.interned.lm

    def connection(self) -> AbstractContextManager[dspy.LM]:
        """See :meth:`InternedLm.connection`."""
        return self.interned.connection()

    @property
    def terminal_fields(self) -> dict[str, Any]:
        """What every terminal chunk of the request says about the LM."""
        return {"scripted": True} if self.interned.scripted else {}

    @property
    def about(self) -> dict[str, str]:
        """What errors that are the LM's say about it: ``model`` and ``provider``."""
        return {"model": self.interned.model, "provider": self.interned.provider}


class _Named(msgspec.Struct):
    interned: InternedLm
    adapter: str


class LmStore:
    """All LMs of the process. Used on the loop's thread only."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._interned: dict[bytes, InternedLm] = {}
        self._idle: OrderedDict[bytes, None] = OrderedDict()
        self._named: dict[str, _Named] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._made = 0

    def configure(self, name: str, spec: LmSpec | None, adapter: str | None) -> dict[str, Any]:
        """Give ``name`` an LM, or (``spec`` None) another adapter. What it had stays if this fails.

        Returns:
            what the host is told: ``{"name", "model", "provider", "adapter"[, "scripted"]}``.

        Raises:
            BridgeError: the spec can not work, or (``unknown_lm``; ``lm_not_configured`` for the default)
                there is nothing to give an adapter to.
        """
        if spec is not None:
            old, interned = self._named.get(name), self._intern(spec, fresh=lm_build.is_scripted(spec.model))
        else:
            old = self._resolve(name)
            interned = old.interned
        named = _Named(interned, adapter or self._options.adapter)
        if adapter is None and old is not None:
            named.adapter = old.adapter
        self._named[name] = named
        interned.names.add(name)
        if old is not None and old.interned is not interned:
            old.interned.names.discard(name)
            old.interned.retired = not old.interned.names
            self._settle(old.interned)
        self._settle(interned)
        if interned.scripted:
            _log.warning("the LM %r is scripted: its answers are canned", name)
        return self._describe(name, named)

    @contextmanager
    def lease(self, lm: str | LmSpec | None, adapter: str | None = None) -> Iterator[Lease]:
        """Hold the LM of a name, of an inline spec, or the default one, while a request runs.

        Raises:
            BridgeError: ``unknown_lm``, ``lm_not_configured``, or the spec can not work.
        """
        if isinstance(lm, LmSpec):
            interned, default_adapter = self._inline(lm), self._options.adapter
        else:
            named = self._resolve(lm)
            interned, default_adapter = named.interned, named.adapter
        interned.leases += 1
        self._idle.pop(interned.key, None)
        try:
            yield Lease(interned, adapter or default_adapter)
        finally:
            interned.leases -= 1
            self._settle(interned)

    def snapshot(self) -> dict[str, Any]:
        """``{"lms": {name: {...}}, "inline_lms": n}``, without keys and addresses."""
        lms = {}
        for name, named in [*self._named.items()]:
            lms[name] = {**self._describe(name, named), "in_use": named.interned.leases}
            del lms[name]["name"]
        inline = sum(not interned.names for interned in [*self._interned.values()])
        return {"lms": lms, "inline_lms": inline}

    async def aclose(self) -> None:
        """Close everything, whoever holds it."""
        for interned in [*self._interned.values()]:
            await interned.aclose()
        await asyncio.gather(*self._closing)

    def _resolve(self, name: str | None) -> _Named:
        named = self._name(DEFAULT if name is None else name)
        if named is not None:
            return named
        if name is None or name == DEFAULT:
            raise not_configured()
        near = difflib.get_close_matches(name, self._named, n=3)
        details: dict[str, Any] = {"did_you_mean": near} if near else {}
        raise BridgeError(f"Unknown LM: {name}", code=Code.UNKNOWN_LM, details=details or None)

    def _name(self, name: str) -> _Named | None:
        if name == DEFAULT and DEFAULT not in self._named and self._options.model:
            self._configure_from_options(self._options.model)
        return self._named.get(name)

    def _configure_from_options(self, model: str) -> None:
        try:
            self.configure(DEFAULT, LmSpec(model=model, api_base=self._options.api_base), None)
        except BridgeError as error:
            raise not_configured(error.message) from error

    def _inline(self, spec: LmSpec) -> InternedLm:
        # A script that counts its answers begins anew with each request, and is not kept for the next.
        counts = any(entry.times is not None for entry in spec.script or ())
        before = len(self._interned)
        interned = self._intern(spec, fresh=counts)
        interned.retired = counts
        if interned.scripted and len(self._interned) > before:
            _log.warning("an inline LM is scripted: its answers are canned")
        return interned

    def _intern(self, spec: LmSpec, *, fresh: bool) -> InternedLm:
        """The LM of ``spec``; ``fresh``: one that has answered nobody yet, even if there is an equal one."""
        spec = lm_build.checked(spec)
        key = msgspec.json.encode(spec)
        if fresh:
            self._made += 1
            key += b" %d" % self._made
        interned = self._interned.get(key)
        if interned is None:
            interned = self._interned[key] = InternedLm(key, spec, self._options)
            self._idle[key] = None
        interned.retired = False
        return interned

    def _settle(self, interned: InternedLm) -> None:
        """Keep, put aside or close an LM whose users have changed."""
        if interned.names or interned.leases:
            self._idle.pop(interned.key, None)
            return
        if interned.retired:
            self._idle.pop(interned.key, None)
            self._close(self._interned.pop(interned.key))
            return
        self._idle[interned.key] = None
        self._idle.move_to_end(interned.key)
        while len(self._idle) > MAX_IDLE_INLINE:
            key, _ = self._idle.popitem(last=False)
            self._close(self._interned.pop(key))

    def _close(self, interned: InternedLm) -> None:
        task = asyncio.get_running_loop().create_task(interned.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _describe(self, name: str, named: _Named) -> dict[str, Any]:
        interned = named.interned
        about = {
            "name": name,
            "model": interned.model,
            "provider": interned.provider,
            "adapter": named.adapter,
        }
        return about | ({"scripted": True} if interned.scripted else {})
