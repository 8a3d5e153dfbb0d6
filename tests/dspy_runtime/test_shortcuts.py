"""What is remembered for DSPy is what DSPy would work out anew."""

from __future__ import annotations

import gc
import importlib
import itertools
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

import dspy
import pydantic
import pytest
from dspy.clients import execution
from dspy.clients.backend_selection import select_backend

from bridge.dspy_runtime import loader, shortcuts
from bridge.dspy_runtime.signature_fields import sort_fields
from bridge.options import ServeOptions


@pytest.fixture(autouse=True, scope="module")
def loaded() -> None:
    loader.load(ServeOptions())


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """What a call gives, exactly (1, 1.0 and True differ), or how it fails."""
    try:
        return repr(function(*args, **kwargs))
    except Exception as error:  # noqa: BLE001 - whatever it is, both must fail alike
        return f"{type(error).__name__}: {error}"


def short_of(name: str) -> Any:
    """What stands for one of DSPy's functions, and the function."""
    (patch,) = [patch for patch in shortcuts.PATCHES if patch.name == name]
    places = [getattr(importlib.import_module(module), name) for module in patch.modules]
    assert len({id(place) for place in places}) == 1
    return places[0], places[0].shortcut_for


def test_all_are_in_place_once() -> None:
    assert dspy.__version__ in shortcuts.KNOWN, "hold the shortcuts against this version, then add it"
    before = [short_of(patch.name)[0] for patch in shortcuts.PATCHES]
    assert shortcuts.install()
    assert [short_of(patch.name)[0] for patch in shortcuts.PATCHES] == before
    assert not [
        name
        for _, name in map(short_of, (p.name for p in shortcuts.PATCHES))
        if hasattr(name, "shortcut_for")
    ]


def test_another_dspy_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Any = SimpleNamespace()
    patch = shortcuts.Patch((__name__,), "outcome", lambda found: original)
    monkeypatch.setattr(shortcuts, "PATCHES", (patch,))
    monkeypatch.setattr(dspy, "__version__", "3.4.999")
    assert not shortcuts.install()
    monkeypatch.setattr(dspy, "__version__", next(iter(shortcuts.KNOWN)))
    monkeypatch.setattr(shortcuts, "PATCHES", (patch, patch._replace(name="no_such_name")))
    assert not shortcuts.install()
    assert outcome is not original


class Outputs(pydantic.BaseModel):
    text: str
    number: int | None = None


SYSTEM = {"role": "system", "content": "Be kind.\n"}
USER = {"role": "user", "content": "Größe \U0001f600?"}
MESSAGES: list[Any] = [
    [SYSTEM, USER],
    [SYSTEM, USER, {"role": "assistant", "content": ""}, {"role": "user", "content": ""}],
    [USER],
    [USER, SYSTEM],
    [SYSTEM],
    [SYSTEM, SYSTEM, USER],
    [SYSTEM, {"role": "user", "content": [{"type": "text", "text": "part"}]}],
    [SYSTEM, {**USER, "name": "somebody"}],
    [SYSTEM, {"role": "tool", "content": "x", "tool_call_id": "1"}],
    [SYSTEM, {"role": "nobody", "content": "x"}],
    [{"role": "developer", "content": "x"}, USER],
]
SETTINGS: list[dict[str, Any]] = [
    {},
    *({"temperature": value} for value in (0.0, -0.0, 1, 1.0, 0.5, None)),
    {"max_tokens": 5, "top_p": 1, "stop": "END"},
    {"max_tokens": 5, "top_p": 1.0, "stop": ["END", "\n"]},
    {"seed": 1, "presence_penalty": 1.5, "frequency_penalty": -1},
    {"reasoning_effort": "low"},
    {"response_format": {"type": "json_object"}},
    {"response_format": Outputs},
    {"rollout_id": 3, "temperature": 0.7},
    {"metadata": {"a": "b"}, "user": "me"},
    {"verbosity": "low"},
    {"nonsense": 1},
]


def ask(way: Any, messages: Any, settings: dict[str, Any]) -> Any:
    return way(prepared(messages, settings))


def prepared(messages: Any, settings: dict[str, Any]) -> Any:
    lm = dspy.LM("openai/gpt-4o-mini", engine="lm15", api_key="sk-nobody", cache=False)
    return execution.prepare(lm, None, messages, settings)


def test_requests() -> None:
    short, original = short_of("_canonical")
    for messages, settings in itertools.product(MESSAGES, SETTINGS):
        for turn in ("first", "other", "last"):  # made, then remembered
            said = [{**message} for message in messages]
            if type(said[-1]["content"]) is str:
                said[-1]["content"] += turn
            made, wanted = outcome(ask, short, said, settings), outcome(ask, original, said, settings)
            assert made == wanted, (messages, settings)


def test_a_request_with_a_dialect_of_its_own() -> None:
    short, original = short_of("_canonical")
    for compat in ("openai", "groq", None, "nonsense"):
        call = prepared([SYSTEM, USER], {"reasoning_effort": "low"})
        assert outcome(short, call, compat=compat) == outcome(original, call, compat=compat)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"api_key": "sk-nobody", "api_base": "http://127.0.0.1:1/v1", "timeout": 3.0},
        {"timeout": 3},
        {"timeout": -1},
        {"timeout": "soon"},
        {"headers": {"a": "b"}},
        {"api_version": "1"},
        {"model_type": "responses"},
        {"engine": "auto"},
        {"engine": "litellm"},
    ],
    ids=str,
)
@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "azure/x", "nobody/x"])
def test_engines(model: str, settings: dict[str, Any]) -> None:
    short, original = short_of("select_backend")
    assert select_backend is original
    try:
        lm = dspy.LM(model, **{"engine": "lm15", **settings})
    except (dspy.LMError, TypeError, ValueError):
        return  # there is no such LM
    for options in (None, {"api_key": "sk-other"}, {"timeout": 5.0}, {"temperature": 1}):
        for _ in range(2):
            assert outcome(short, lm, options) == outcome(original, lm, options)
    resolve, resolved = short_of("resolve")
    for _ in range(2):
        assert outcome(resolve, lm) == outcome(resolved, lm)


def test_keys_are_not_remembered() -> None:
    """Neither as what is asked for nor within an answer."""
    _, original = short_of("select_backend")
    short = shortcuts.select_backend(original)
    lm = dspy.LM("openai/gpt-4o-mini", engine="lm15", api_key="sk-secret-key")
    assert short(lm).clients["api_key"] == "sk-secret-key"
    (kept,) = [
        cell.cell_contents for cell in short.__closure__ if isinstance(cell.cell_contents, shortcuts.Kept)
    ]
    assert kept
    assert "sk-secret" not in repr(kept)


@pytest.mark.parametrize("provider", ["openai-chat", "anthropic", "vllm", "nobody"])
def test_what_is_known_of_models(provider: str) -> None:
    short, original = short_of("model_info")
    for model, names in itertools.product(
        ("gpt-4o-mini", "claude-haiku-4-5", "my-own"), (None, (), ["openai"])
    ):
        for _ in range(2):
            assert dict(short(provider, model, namespaces=names)) == original(
                provider, model, namespaces=names
            )


def test_response_formats() -> None:
    short, original = short_of("_get_structured_outputs_response_format")
    signature = dspy.Signature("a -> b: int, c: Literal['x', 'y'], d: list[str], e: Optional[float]")
    made = short(signature)
    assert made is short(signature)
    assert made is not short(signature, False)
    assert made.model_json_schema() == original(signature).model_json_schema()
    with pytest.raises(ValueError, match="open-ended"):
        short(dspy.Signature("a -> b: dict[str, int]"))


def test_types_are_told_apart_by_more_than_equality() -> None:
    short, _ = short_of("TypeAdapter")
    ways: list[Any] = [
        int | str,
        str | int,
        float | int,
        int | float,
        Literal[1],
        Literal[True],
        list[int],
        Outputs,
    ]
    for kind, value in itertools.product(ways, ("1", 1, 1.5, True, {"text": "x"})):
        fresh = pydantic.TypeAdapter(kind)
        for _ in range(2):
            made = short(kind)
            found, wanted = outcome(made.validate_python, value), outcome(fresh.validate_python, value)
            assert found == wanted
            assert made.json_schema(by_alias=False) == fresh.json_schema(by_alias=False)
    assert short(Outputs) is short(Outputs)


def test_proxies_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    short, original = short_of("proxy_route_for")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    address = importlib.import_module("dspy._vendor.lm15.transports._url").parse_url(
        "https://api.example.org/v1"
    )

    def agree(proxy: str | None = None, trust_env: bool = True) -> Any:
        routes = [way(address, proxy=proxy, trust_env=trust_env) for way in (short, short, original)]
        assert routes[0] == routes[1] == routes[2]
        return routes[0]

    assert agree() is None
    assert agree("http://proxy.example.org:1").port == 1
    monkeypatch.setenv("Https_Proxy", "http://proxy.example.org:2")
    assert agree().port == 2
    assert agree(trust_env=False) is None
    monkeypatch.setenv("no_proxy", "example.org")
    assert agree() is None
    monkeypatch.delenv("Https_Proxy")
    assert agree() is None


def test_what_is_kept_is_bounded() -> None:
    kept = shortcuts.Kept()
    for number in range(shortcuts.MAX_KEPT + 10):
        kept.find(number, lambda: 0)
        kept.find(0, lambda: 1)
    assert len(kept) == shortcuts.MAX_KEPT
    assert 0 in kept
    with pytest.raises(LookupError):
        kept.find("failed", lambda: [][0])
    assert "failed" not in kept


def test_threads_may_ask_at_once() -> None:
    kept = shortcuts.Kept(4)

    def ask_often(seed: int) -> None:
        for number in range(3000):
            key = (seed + number * 7) % 9
            assert kept.find(key, partial(int, key)) == key

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask_often, range(8)))
    assert len(kept) == 4


def test_sorted_fields_are_the_signatures() -> None:
    stock = dspy.Signature("a, b: int -> c, d: list[str]", "Do.")
    signature = sort_fields(dspy.Signature("a, b: int -> c, d: list[str]", "Do."))
    for _ in range(2):
        for side in ("input_fields", "output_fields", "fields"):
            found = getattr(signature, side)
            assert list(map(repr, found.items())) == list(map(repr, getattr(stock, side).items()))
            found.clear()  # the caller's own
    assert sort_fields(signature) is signature
    assert repr(signature) == repr(stock)
    assert type(signature.append("e", dspy.OutputField())) is type(dspy.Signature)
    signature.model_rebuild(force=True)
    assert signature.output_fields["c"] is signature.model_fields["c"]
    assert isinstance(signature(a="x", b=1, c="y", d=[]), dspy.Signature)


def test_texts_are_not_remembered() -> None:
    _, original = short_of("_canonical")
    short = shortcuts.canonical(original)
    short(prepared([SYSTEM, USER], {}))
    (kept,) = [
        cell.cell_contents for cell in short.__closure__ if isinstance(cell.cell_contents, shortcuts.Kept)
    ]
    assert len(kept) == 1
    assert "Be kind" not in repr(kept)
    assert "Größe" not in repr(kept)


def test_a_response_format_goes_with_its_signature() -> None:
    _, original = short_of("_get_structured_outputs_response_format")
    short = shortcuts.response_format(original)

    def use() -> weakref.ref[Any]:
        return weakref.ref(short(dspy.Signature("a -> b: int")))

    made = use()
    for _ in range(2):  # the one, then the other: each class is a cycle of its own
        gc.collect()
    assert made() is None
