"""Loading DSPy: late, once, and quietly."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.support.handlers import KEY
from tests.support.provider import Provider

ROOT = Path(__file__).parents[2]


def python(code: str, **environment: str) -> str:
    """The standard output of a Python process of its own; warnings are errors in it."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": "/nonexistent", **environment}
    # Third parties' import-time warnings are theirs to mend.
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_commands_import_no_dspy() -> None:
    python(
        """
        import sys
        import bridge.commands.predict, bridge.commands.configure, bridge.dspy_runtime.loader
        import bridge.dspy_runtime.script_file
        heavy = {"dspy", "pydantic", "litellm", "openai", "requests"} & set(sys.modules)
        assert not heavy, heavy
        from bridge.dspy_runtime import loader
        assert loader.snapshot() == {"loaded": False, "lms": {}}
        assert "dspy" in loader.versions()
        """
    )


def test_dspy_is_set_up_for_a_server() -> None:
    out = python(
        """
        import asyncio, logging, os
        from bridge.dspy_runtime import loader
        from bridge.options import ServeOptions
        options = ServeOptions(memory_cache_entries=7)
        async def main():
            one, two = await asyncio.gather(loader.runtime(options), loader.runtime(options))
            assert one is two is loader.load(options)
        asyncio.run(main())
        import dspy
        assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"
        assert dspy.settings.trace is None and dspy.settings.disable_history is True
        assert dspy.cache.memory_cache.maxsize == 7 and not dspy.cache.enable_disk_cache
        logger = logging.getLogger("dspy")
        assert logger.propagate and not logger.handlers
        print("well")
        """
    )
    assert out == "well\n"


def test_a_waiter_that_gives_up_does_not_stop_the_load() -> None:
    python(
        """
        import asyncio
        from bridge.dspy_runtime import loader
        from bridge.options import ServeOptions
        async def main():
            task = asyncio.ensure_future(loader.runtime(ServeOptions()))
            await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                assert await loader.runtime(ServeOptions())
            else:
                raise AssertionError
        asyncio.run(main())
        """
    )


def test_a_failed_import_is_told_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "dspy.py").write_text("raise ImportError('half installed')")
    python(
        f"""
        import sys
        from bridge.dspy_runtime import loader
        from bridge.errors import BridgeError
        from bridge.options import ServeOptions
        sys.path.insert(0, {str(tmp_path)!r})
        for _ in range(2):
            try:
                loader.load(ServeOptions())
            except BridgeError as error:
                assert "half installed" in error.message, error
            else:
                raise AssertionError
        sys.path.pop(0)
        assert loader.load(ServeOptions())
        """
    )


def test_a_native_call_never_imports_litellm() -> None:
    with Provider() as provider:
        python(
            f"""
            import sys
            from tests.support.handlers import Harness
            import bridge.commands.predict
            harness = Harness()
            for module in ("predict", "chain_of_thought"):
                for adapter in ("chat", "json", "xml"):
                    lm = {{"model": "openai/gpt-4o-mini", "api_base": "{provider.url}", "api_key": "{KEY}"}}
                    *_, last = harness.batch([{{"text": "x"}}] * 3, lm=lm, module=module, adapter=adapter)
                    assert last["succeeded"] == 3, last
            assert "litellm" not in sys.modules
            """
        )
        assert len(provider.requests) == 18


def test_a_disk_cache_only_where_it_is_wanted(tmp_path: Path) -> None:
    code = """
        import os
        from tests.support.handlers import Harness, scripted
        import bridge.commands.predict
        from bridge.dspy_runtime import loader
        from bridge.options import ServeOptions
        options = {options}
        loader.load(ServeOptions(**options))
        harness = Harness(**options)
        for _ in range(2):
            *_, last = harness.batch([{{"text": "x"}}], lm=dict(scripted(), cache=True))
        print(last["usage"]["calls"])
        """
    home = {"HOME": str(tmp_path)}
    assert python(code.format(options={}), **home) == "0\n"
    assert os.listdir(tmp_path) == []
    cache = {"cache_dir": str(tmp_path / "cache")}
    assert python(code.format(options=cache), **home) == "0\n"
    assert os.listdir(tmp_path) == ["cache"]


def test_keys_are_trimmed_and_a_cache_directory_that_can_not_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = python(
        f"""
        import os
        from bridge.dspy_runtime import loader
        from bridge.errors import BridgeError
        from bridge.options import ServeOptions
        try:
            loader.load(ServeOptions(cache_dir={str(tmp_path / "file" / "cache")!r}))
        except BridgeError as error:
            print(error.code, error.message)
        print(repr(os.environ["MISTRAL_API_KEY"]))
        """,
        MISTRAL_API_KEY="zebra-one-two\n",
    )
    told, key = out.splitlines()
    assert told == "io_error The cache directory cache can not be used: not a directory."
    assert key == "'zebra-one-two'"
