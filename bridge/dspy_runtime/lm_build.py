"""Making a ``dspy.LM`` from a spec."""

from __future__ import annotations

import importlib.util
import weakref
from typing import Any
from urllib.parse import unquote, urlsplit

import dspy
import msgspec

from bridge.dspy_runtime.errors import INSTALL_LITELLM
from bridge.dspy_runtime.script_file import check_entries, load_script
from bridge.dspy_runtime.specs import SCRIPTED, LmSpec, is_scripted
from bridge.errors import BridgeError, Code, invalid_args
from bridge.options import ServeOptions
from bridge.redact import add_secret

#: Seconds one attempt may wait for the next byte. The SDKs' 600 outlast most hosts' patience.
DEFAULT_TIMEOUT_S = 300.0
#: Further attempts after a passing failure, at 1, 2, 4… seconds. The host sees ``retryable`` and can go on.
DEFAULT_RETRIES = 2

_SAME_NAMES = (
    "api_key",
    "api_base",
    "api_version",
    "top_p",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "reasoning_effort",
)

__all__ = ["build", "checked", "is_plain", "is_scripted", "provider_of"]

_plain: weakref.WeakSet[dspy.LM] = weakref.WeakSet()


def checked(spec: LmSpec) -> LmSpec:
    """``spec`` with its key as it is to be sent: mounted secrets end in a newline, which is no part of them.

    Raises:
        BridgeError: ``invalid_args`` for a key or an address that can not be one.
    """
    # Remembered before anything can go wrong with it.
    _remember_secrets(spec)
    if spec.api_base is not None:
        _check_address(spec.api_base)
    if spec.api_key is None:
        return spec
    key = spec.api_key.strip()
    if not key:
        raise invalid_args("The API key is empty.", "$.args.lm.api_key")
    if not key.isascii() or not key.isprintable():
        raise invalid_args("The API key has characters that no key can have.", "$.args.lm.api_key")
    return spec if key == spec.api_key else msgspec.structs.replace(spec, api_key=key)


def _check_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        well = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        well = False
    if not well or not address.isprintable() or " " in address:
        raise invalid_args(
            "api_base must be an address such as https://host/v1 (http or https).", "$.args.lm.api_base"
        )


def build(spec: LmSpec, options: ServeOptions) -> dspy.LM:
    """A new LM of a spec that was :func:`checked`.

    Raises:
        BridgeError: ``invalid_args`` for settings that can not be, ``lm_not_configured`` if what the model
            needs is not installed.
    """
    if is_scripted(spec.model):
        return _scripted(spec, options)
    for name in ("script", "tokens_per_s"):
        if getattr(spec, name) is not None:
            raise invalid_args(f'"{name}" is for the model "{SCRIPTED}" only.', f"$.args.lm.{name}")
    try:
        lm = dspy.LM(spec.model, **_arguments(spec, options))
        native = _is_native(lm)
        if native:
            # Left to choose, DSPy would import LiteLLM in the middle of a call that its own engine refuses.
            lm = dspy.LM(spec.model, engine="lm15", **_arguments(spec, options))
    except (dspy.LMError, ValueError, TypeError) as error:
        text = getattr(error, "message", "") or str(error)
        raise invalid_args(
            f"The language model {spec.model!r} can not be used: {text}", "$.args.lm"
        ) from error
    if not native and importlib.util.find_spec("litellm") is None:
        raise BridgeError(
            f"{spec.model}: {INSTALL_LITELLM}",
            code=Code.LM_NOT_CONFIGURED,
            details={"model": spec.model, "provider": provider_of(spec.model)},
        )
    if native:
        _plain.add(lm)
    return lm


def is_plain(lm: object) -> bool:
    """Whether ``lm`` was made here and none of its calls loads LiteLLM: DSPy's own engine, or ours."""
    return lm in _plain


def _is_native(lm: dspy.LM) -> bool:
    """Whether DSPy reaches the model by itself rather than through LiteLLM. Imports nothing, calls nobody."""
    try:
        from dspy.clients.backend_selection import select_backend
    except ImportError:
        return False  # not the DSPy we know: take the careful path
    return bool(select_backend(lm).native)


def provider_of(model: str) -> str:
    """The provider a model's name begins with; bare names are OpenAI's, as in DSPy."""
    if is_scripted(model):
        return SCRIPTED
    return model.partition("/")[0] if "/" in model else "openai"


def _arguments(spec: LmSpec, options: ServeOptions) -> dict[str, Any]:
    arguments = {name: value for name in _SAME_NAMES if (value := getattr(spec, name)) is not None}
    return arguments | {
        "model_type": spec.model_type,
        "temperature": spec.temperature,
        "max_tokens": spec.max_tokens,
        "timeout": spec.timeout_s or DEFAULT_TIMEOUT_S,
        "num_retries": _or(spec.num_retries, DEFAULT_RETRIES),
        "cache": _or(spec.cache, options.cache_dir is not None),
    }


def _scripted(spec: LmSpec, options: ServeOptions) -> dspy.LM:
    from bridge.dspy_runtime.scripted import AsyncScriptedEngine, ScriptedEngine

    try:
        if spec.script is not None:
            entries = spec.script
            check_entries(entries)
        else:
            entries = load_script(options.script) if options.script else []
    except ValueError as error:
        raise invalid_args(str(error), "$.args.lm.script") from error
    engine = ScriptedEngine(entries, tokens_per_s=_or(spec.tokens_per_s, options.script_tokens_per_s))
    lm = dspy.LM(
        spec.model,
        engine=engine,
        async_engine=AsyncScriptedEngine(engine),
        cache=_or(spec.cache, False),
        num_retries=_or(spec.num_retries, DEFAULT_RETRIES),
        temperature=spec.temperature,
        max_tokens=spec.max_tokens,
    )
    _plain.add(lm)
    return lm


def _remember_secrets(spec: LmSpec) -> None:
    if spec.api_key:
        add_secret(spec.api_key)
    if spec.api_base:
        try:
            password = urlsplit(spec.api_base).password
        except ValueError:
            return
        if password:
            add_secret(password)
            add_secret(unquote(password))


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
