"""Importing DSPy once, in the background, and setting it up for many requests at a time."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import tempfile
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from bridge.errors import BridgeError, Code
from bridge.options import ServeOptions

if TYPE_CHECKING:
    from bridge.dspy_runtime.runtime import Runtime

_log = logging.getLogger("bridge.dspy")
_lock = threading.Lock()
_loading: Future[Runtime] | None = None


def start_background(options: ServeOptions) -> Future[Runtime]:
    """Begin to load DSPy in a thread of its own, unless that was done before."""
    global _loading
    with _lock:
        failed = _loading is not None and _loading.done() and _loading.exception() is not None
        if _loading is None or failed:
            _loading = Future()
            arguments = (options, _loading)
            threading.Thread(target=_load_into, args=arguments, name="load-dspy", daemon=True).start()
        return _loading


def load_here(options: ServeOptions) -> Runtime:
    """As :func:`load`, in the calling thread unless it was begun before: for a process that will fork."""
    global _loading
    with _lock:
        begun, _loading = _loading, _loading or Future()
    if begun is None:
        _load_into(options, _loading)
    return _loading.result()


def load(options: ServeOptions) -> Runtime:
    """DSPy, ready for use; blocks until it is. All callers get the same, set up with the first one's options.

    Raises:
        BridgeError: it can not be imported, or (``io_error``) its cache directory can not be used.
    """
    return start_background(options).result()


async def runtime(options: ServeOptions) -> Runtime:
    """What :func:`load` returns, without blocking the loop."""
    loading = start_background(options)
    if not loading.done():
        # One waiter's cancellation must not cancel the load for the others.
        await asyncio.shield(asyncio.wrap_future(loading))
    loaded = loading.result()
    loaded.install(asyncio.get_running_loop())
    return loaded


def snapshot() -> dict[str, Any]:
    """What is loaded, for ``stats``: ``{"loaded": bool, "lms": {name: {...}}}``. No secrets.

    With ``"mcp": {name: {...}}`` when there are MCP servers.
    """
    loaded = _loaded()
    if loaded is None:
        return {"loaded": False, "lms": {}}
    told = {"loaded": True, **loaded.lms.snapshot()}
    return {**told, "mcp": loaded.mcp.snapshot()} if loaded.mcp.names() else told


async def aclose(within_s: float) -> None:
    """End the processes of MCP servers, within ``within_s`` seconds. All else ends with this process."""
    loaded = _loaded()
    if loaded is not None:
        await loaded.mcp.aclose(within_s)


def _loaded() -> Runtime | None:
    loading = _loading
    if loading is None or not loading.done() or loading.exception() is not None:
        return None
    return loading.result()


def versions() -> dict[str, str]:
    """The versions of DSPy and, if they are there, what it stands on. Imports none of them."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("dspy", "pydantic", "litellm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _load_into(options: ServeOptions, result: Future[Runtime]) -> None:
    try:
        result.set_result(_load(options))
    except BaseException as error:  # noqa: BLE001 - waiters get it; this thread has nobody to tell
        _log.warning("DSPy can not be loaded", exc_info=error)
        if isinstance(error, BridgeError):
            result.set_exception(error)
            return
        failure = BridgeError(f"DSPy can not be loaded ({type(error).__name__}: {error}).")
        failure.__cause__ = error
        result.set_exception(failure)


def _load(options: ServeOptions) -> Runtime:
    _trim_keys()
    if options.cache_dir is not None:
        _try_cache_dir(options.cache_dir)
    # Otherwise the first call fetches a price list from the internet.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    # Otherwise LiteLLM downloads the images that data names for providers that take no addresses.
    os.environ.setdefault("MAX_IMAGE_URL_DOWNLOAD_SIZE_MB", "0")
    import dspy

    _quiet_logging()
    _settings(dspy)
    dspy.configure_cache(
        enable_disk_cache=options.cache_dir is not None,
        enable_memory_cache=True,
        disk_cache_dir=options.cache_dir,
        memory_max_entries=options.memory_cache_entries,
        restrict_pickle=True,
    )
    from bridge.dspy_runtime.runtime import Runtime

    loaded = Runtime(options)
    # Some 70,000 objects that live as long as the process: a full collection would look at each of them, for
    # 50 ms, in the middle of streams.
    gc.freeze()
    return loaded


def _trim_keys() -> None:
    """Keys from mounted files end in a newline, which SDKs would put into a header."""
    for name, value in [*os.environ.items()]:
        if name.upper().endswith(("API_KEY", "_TOKEN")) and value != value.strip():
            os.environ[name] = value.strip()


def _try_cache_dir(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise BridgeError(
            f"The cache directory {os.path.basename(os.path.normpath(path))} can not be used: {reason}.",
            code=Code.IO_ERROR,
        ) from error


def _settings(dspy: Any) -> None:
    """Keep neither traces nor histories: both grow with every call, across requests."""
    try:
        dspy.configure(trace=None, disable_history=True, warn_on_type_mismatch=False)
    except RuntimeError:
        # Someone's command module configured DSPy from another thread. Requests set what matters themselves.
        _log.warning("DSPy was configured elsewhere first; its traces and histories may grow")


def _quiet_logging() -> None:
    """Have DSPy log through the root logger instead of writing to stderr itself."""
    logger = logging.getLogger("dspy")
    for handler in [*logger.handlers]:
        logger.removeHandler(handler)
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
