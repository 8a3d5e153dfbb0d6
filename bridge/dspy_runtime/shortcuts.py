"""What DSPy works out anew for every call although it comes out the same, remembered.

These are patches of names in DSPy's modules, made for the versions they were held against only
(:data:`KNOWN`); with any other DSPy calls are merely slower. Each gives what the function it stands for
gives, and hands on to it whatever is not the common case. All are bounded, and none remembers a secret.

Of an LM call's time outside the provider: finding the price (a search through 3,000 models when the answer
names one that is not listed) up to a half, the JSON adapter's response format most of its own share, choosing
an engine a tenth, reading messages into a request an eighth, looking for proxies in the environment a tenth.
"""

from __future__ import annotations

import functools
import importlib
import logging
import threading
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace
from os import environ
from types import MappingProxyType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

#: The versions of DSPy whose functions these stand for.
KNOWN = frozenset({"3.4.1"})
#: Answers that each of them keeps, unless it says otherwise.
MAX_KEPT = 256
#: Requests hold a response format, of 100 KB or so, each.
MAX_REQUESTS = 64
MAX_TYPES = 512

_log = logging.getLogger("bridge.dspy")


class Patch(NamedTuple):
    """``make(original)`` is what ``name`` is to be in each of ``modules``."""

    modules: tuple[str, ...]
    name: str
    make: Callable[[Any], Any]


class Kept(OrderedDict[Hashable, Any]):
    """Answers by key, the least recently used dropped first. Used in any thread."""

    def __init__(self, size: int = MAX_KEPT) -> None:
        super().__init__()
        self._size = size
        self._lock = threading.Lock()

    def find(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The answer of ``key``; ``make()`` gives it the first time. What it raises is not kept."""
        with self._lock:
            if key in self:
                self.move_to_end(key)
                return self[key]
        made = make()
        with self._lock:
            self[key] = made
            if len(self) > self._size:
                self.popitem(last=False)
        return made


def install() -> bool:
    """Put the shortcuts in their places, once a process; whether they are there."""
    import dspy

    if dspy.__version__ not in KNOWN:
        _log.info("DSPy %s is not known; its calls take no shortcuts", dspy.__version__)
        return False
    try:
        places = [(patch, [importlib.import_module(name) for name in patch.modules]) for patch in PATCHES]
        originals = [getattr(modules[0], patch.name) for patch, modules in places]
    except (ImportError, AttributeError):
        _log.warning("DSPy's calls are not as known; they take no shortcuts")
        return False
    for (patch, modules), original in zip(places, originals, strict=True):
        if not hasattr(original, "shortcut_for"):
            short = patch.make(original)
            short.shortcut_for = original
            for module in modules:
                setattr(module, patch.name, short)
    return True


def model_info(original: Any) -> Any:
    """What is known of a model. Those who ask only read it, which spares a copy."""
    kept = Kept()

    def short(provider: Any, model: Any, *, namespaces: Any = None) -> Any:
        names = None if namespaces is None else tuple(namespaces)
        return kept.find(
            (provider, model, names),
            lambda: MappingProxyType(original(provider, model, namespaces=namespaces)),
        )

    return short


def select_backend(original: Any) -> Any:
    """The engine for an LM's model and settings, for LMs that are bound to DSPy's own.

    Others ask the environment, and LMs with providers of their own ask these.
    """
    from dspy.clients.backend_selection import CLIENT_KEYS, BackendSelection

    kept = Kept()

    def short(lm: Any, options: Any = None) -> Any:
        if lm._engine_spec != "lm15" or getattr(lm, "_providers", ()):
            return original(lm, options)
        clients = {key: value for key, value in lm.kwargs.items() if key in CLIENT_KEYS}
        if options:
            clients.update({key: value for key, value in options.items() if key in CLIENT_KEYS})
        timeout = clients.get("timeout")
        if type(timeout) not in (float, int, type(None)):
            return original(lm, options)
        key = (lm.model, lm.model_type, frozenset(clients), type(timeout), timeout)
        resolution = kept.find(key, lambda: original(lm, options).resolution)
        return BackendSelection(True, resolution, clients)

    return short


def resolve(original: Any) -> Any:
    """Where an LM's model is served; not for LMs with providers of their own."""
    kept = Kept()

    def short(lm: Any) -> Any:
        if getattr(lm, "_providers", ()):
            return original(lm)
        return kept.find((lm.model, lm.model_type), lambda: original(lm))

    return short


def canonical(original: Any) -> Any:
    """A request out of messages and settings: for texts only, a request like the last one with others."""
    from dspy.clients.backend_selection import CLIENT_KEYS
    from dspy.lm15 import Message, TextPart

    kept = Kept(MAX_REQUESTS)
    nothing = (Message(role="user", parts=(TextPart(text=""),)),)

    def short(call: Any, *, compat: Any = None) -> Any:
        legacy = call.legacy
        messages = legacy.get("messages")
        if call.request is not None or not _only_texts(messages):
            return original(call, compat=compat)
        try:
            settings = [
                (name, _exact(value))
                for name, value in legacy.items()
                if name != "messages" and name not in CLIENT_KEYS
            ]
            request = kept.find(
                (compat, *settings),
                lambda: replace(original(call, compat=compat), system=None, messages=nothing),
            )
        except TypeError:  # a setting that can not be a key
            return original(call, compat=compat)
        if request.config.extensions:  # whatever these are, they are that one call's own
            return original(call, compat=compat)
        system, *turns = messages
        return replace(
            request,
            system=system["content"],
            messages=tuple(
                Message(role=turn["role"], parts=(TextPart(text=turn["content"]),)) for turn in turns
            ),
        )

    return short


def response_format(original: Any) -> Any:
    """The model of a signature's outputs, whose schema is asked of the provider."""
    # With native thinking DSPy makes a signature for each call, which none of these is to outlive.
    kept: WeakKeyDictionary[type, dict[bool, Any]] = WeakKeyDictionary()

    def short(signature: Any, use_native_function_calling: bool = True) -> Any:
        made = kept.setdefault(signature, {})
        if use_native_function_calling not in made:
            made[use_native_function_calling] = original(signature, use_native_function_calling)
        return made[use_native_function_calling]

    return short


def type_adapter(original: Any) -> Any:
    """pydantic's adapter of a type, and its schema, which nobody changes.

    Types are told apart by identity: ``int | str`` equals ``str | int``.
    """
    kept = Kept(MAX_TYPES)

    def make(kind: Any) -> tuple[Any, Any]:
        adapter = original(kind)
        adapter.json_schema = functools.cache(adapter.json_schema)
        return adapter, kind  # with the type, its id stays its own

    def short(kind: Any) -> Any:
        return kept.find(id(kind), lambda: make(kind))[0]

    return short


def proxy_route(original: Any) -> Any:
    """The proxy for an address: none while the environment, which is looked through, names none."""
    seen: list[dict[Any, Any]] = []
    # The strings as the system has them; comparing them is a hundredth of decoding them.
    variables = getattr(environ, "_data", None)
    if not isinstance(variables, dict) or urllib.request.getproxies is not _of_environment():
        return lambda *args, **kwargs: original(*args, **kwargs)

    def short(parsed: Any, *, proxy: Any, trust_env: bool) -> Any:
        if proxy is None and trust_env:
            if seen and seen[0] == variables:
                return None
            if not urllib.request.getproxies():
                seen[:] = [dict(variables)]
        return original(parsed, proxy=proxy, trust_env=trust_env)

    return short


def _of_environment() -> Any:
    return getattr(urllib.request, "getproxies_environment", None)


def _only_texts(messages: Any) -> bool:
    """Whether they are a system message and then turns, each of one text."""
    if type(messages) is not list or len(messages) < 2:
        return False
    for number, message in enumerate(messages):
        if type(message) is not dict or len(message) != 2 or type(message.get("content")) is not str:
            return False
        role = message.get("role")
        if role != "system" if number == 0 else role not in ("user", "assistant"):
            return False
    return True


def _exact(value: Any) -> Hashable:
    """``value`` as a part of a key: 1, 1.0 and True are equal, and so are 0.0 and -0.0, but not the same.

    Raises:
        TypeError: it can not be a part of one.
    """
    kind = type(value)
    if kind is float:
        return kind, repr(value)
    if kind is list:
        return kind, tuple(map(_exact, value))
    if kind in (str, int, bool, type(None)) or isinstance(value, type):
        return kind, value
    raise TypeError


PATCHES = (
    Patch(("dspy.clients.costs", "dspy.clients.capabilities"), "model_info", model_info),
    Patch(("dspy.clients.execution", "dspy.clients.capabilities"), "select_backend", select_backend),
    Patch(("dspy.clients.capabilities",), "resolve", resolve),
    Patch(("dspy.clients.execution",), "_canonical", canonical),
    Patch(("dspy.adapters.json_adapter",), "_get_structured_outputs_response_format", response_format),
    Patch(("dspy.adapters.utils", "dspy.adapters.xml_adapter"), "TypeAdapter", type_adapter),
    Patch(("dspy._vendor.lm15.transports._async",), "proxy_route_for", proxy_route),
)
