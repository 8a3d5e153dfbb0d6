"""MCP servers that the operator named: processes, started on first use, whose tools become DSPy's.

The SDK's ``ClientSession`` speaks the protocol. Its ``stdio_client`` is not used: it hides the process, whose
exit code and stderr are told here, and takes longer to end one than a worker's end may.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final

import anyio
import pydantic

from bridge._version import __version__
from bridge.dspy_runtime import mcp_process, mcp_sdk
from bridge.dspy_runtime.mcp_process import ServerProcess, Unusable
from bridge.dspy_runtime.mcp_sdk import Sdk
from bridge.dspy_runtime.mcp_tools import McpTool, convert
from bridge.errors import BridgeError, Code

#: How long, in seconds, a server may take to answer ``initialize``, and to list its tools.
START_TIMEOUT_S: Final = 30.0
#: How long, in seconds, ending a server may take, SIGKILL included.
END_S: Final = 2.0
#: Longest text of an error that a server answered.
MAX_ERROR_CHARS: Final = 1000

_log = logging.getLogger("bridge.mcp")


class McpServers:
    """The servers of a worker, each started when it is first used. Used on one loop's thread only.

    ``commands`` maps each server's name to the words that start it.
    """

    def __init__(self, commands: Mapping[str, tuple[str, ...]]) -> None:
        self._servers = {name: _Server(name, argv) for name, argv in commands.items()}

    def names(self) -> tuple[str, ...]:
        """The servers' names, in the order they were given."""
        return tuple(self._servers)

    async def tools(self, name: str) -> dict[str, McpTool]:
        """The tools of a server by their own names. Starts the server unless it runs.

        Raises:
            BridgeError: ``unknown_tool`` when no server has that name; ``tool_error`` when it can not be
                started, does not answer, or answers with an error.
        """
        server = self._servers.get(name)
        if server is None:
            known = ", ".join(self._servers) or "none: name them with --mcp"
            raise BridgeError(f"Unknown MCP server: {name}. There are: {known}.", code=Code.UNKNOWN_TOOL)
        return await server.tools()

    async def aclose(self, within_s: float = END_S) -> None:
        """End all servers within ``within_s`` seconds; none is started any more."""
        await asyncio.gather(*(server.aclose(within_s) for server in self._servers.values()))

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """``{name: {"running": bool, "tools": int, "starts": int}}``; ``tools`` as last listed."""
        return {name: server.snapshot() for name, server in self._servers.items()}


class _Server:
    """A server through all its starts. To DSPy's tools it is the session, so that they outlive a process."""

    def __init__(self, name: str, argv: tuple[str, ...]) -> None:
        self._name = name
        self._argv = argv
        self._starts = 0
        self._tools = 0
        self._connection: _Connection | None = None
        self._closed = False
        self._running: set[asyncio.Task[None]] = set()

    async def tools(self) -> dict[str, McpTool]:
        listed = await self._connect().tools()
        self._tools = len(listed)
        return {tool.name: convert(self, tool) for tool in listed}

    async def call_tool(self, name: str, arguments: dict[str, Any] | None = None) -> Any:
        """Call a tool; gives the SDK's ``CallToolResult``. Starts the server if it has died.

        Raises:
            BridgeError: ``tool_error``.
        """
        return await self._connect().call(name, arguments)

    async def aclose(self, within_s: float) -> None:
        self._closed = True
        if self._connection is not None:
            self._connection.close(within_s)
        if self._running:
            await asyncio.wait(self._running)

    def snapshot(self) -> dict[str, Any]:
        running = self._connection is not None and self._connection.running
        return {"running": running, "tools": self._tools, "starts": self._starts}

    def _connect(self) -> _Connection:
        if self._closed:
            raise _error(self._name, "is closed: the worker ends")
        if self._connection is None or self._connection.over:
            self._starts += 1
            self._connection = _Connection(self._name, self._argv)
            self._running.add(self._connection.task)
            self._connection.task.add_done_callback(self._running.discard)
        return self._connection


class _Connection:
    """One process of a server and the session with it, from start to end.

    Its task enters and leaves all that has to be left where it was entered. Requests have tasks of their own:
    a caller who is cancelled takes nothing with him, and no request outlives the process.
    """

    def __init__(self, name: str, argv: tuple[str, ...]) -> None:
        self._name = name
        self._argv = argv
        loop = asyncio.get_running_loop()
        self._session: Any = None
        #: There is a session, or there will be none.
        self._opened: asyncio.Future[None] = loop.create_future()
        #: Nothing more can be asked; why is known when it is told.
        self._over: asyncio.Future[None] = loop.create_future()
        self._told: asyncio.Future[None] = loop.create_future()
        self._why: str | None = None
        self._within_s = END_S
        self._requests: set[asyncio.Task[Any]] = set()
        self._listing: asyncio.Task[list[Any]] | None = None
        # The context of the request that happened to come first must not stay with the server.
        self.task = loop.create_task(self._run(), context=contextvars.Context())

    @property
    def over(self) -> bool:
        """Whether a new connection is needed."""
        return self._over.done()

    @property
    def running(self) -> bool:
        """Whether it can be asked."""
        return self._session is not None and not self.over

    def close(self, within_s: float) -> None:
        """Begin to end it; ``task`` is done when it has ended."""
        self._within_s = within_s
        self._end("was closed at the worker's end")

    async def tools(self) -> list[Any]:
        """The SDK's tools, listed once for all callers until the server says that they have changed."""
        await self._ready()
        listing = self._listing
        if listing is None:
            listing = self._listing = self._request(self._list())
        await asyncio.wait({listing})
        if listing is self._listing and (listing.cancelled() or listing.exception()):
            self._listing = None
        tools: list[Any] = self._result(listing, "list its tools")
        return tools

    async def call(self, name: str, arguments: dict[str, Any] | None) -> Any:
        """The SDK's result of a call."""
        await self.tools()  # with which the SDK checks results
        await self._ready()  # it may have ended meanwhile; from here to the request nothing else runs
        call = self._request(self._session.call_tool(name, arguments))
        try:
            await asyncio.wait({call})
        finally:
            call.cancel()
        return self._result(call, f"run {name!r}")

    async def _ready(self) -> None:
        await asyncio.wait({self._opened})
        if self.over:
            await asyncio.wait({self._told})
            raise _error(self._name, str(self._why))

    def _request(self, request: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(request, context=contextvars.Context())
        self._requests.add(task)
        task.add_done_callback(self._requested)
        return task

    def _requested(self, task: asyncio.Task[Any]) -> None:
        self._requests.discard(task)
        if not task.cancelled():
            task.exception()  # whoever wanted to know it may be gone

    def _result(self, done: asyncio.Task[Any], what: str) -> Any:
        if done.cancelled():
            raise _error(self._name, f"{self._why} when it had to {what}. Its next use starts it again")
        error = done.exception()
        if error is None:
            return done.result()
        why = f"within {START_TIMEOUT_S:g} s" if isinstance(error, TimeoutError) else f"({_text(error)})"
        raise _error(self._name, f"could not {what} {why}") from error

    async def _list(self) -> list[Any]:
        async with asyncio.timeout(START_TIMEOUT_S):
            return await mcp_sdk.list_tools(self._session)

    # ---- the connection's own task -------------------------------------------------------------

    async def _run(self) -> None:
        process = None
        try:
            sdk = await asyncio.to_thread(mcp_sdk.load)
            to_session, from_process = anyio.create_memory_object_stream[Any](math.inf)
            with to_session, from_process:
                if not self.over:
                    process = await mcp_process.start(
                        self._name,
                        self._argv,
                        sdk.environment(),
                        on_line=lambda line: self._heard(sdk, line, to_session),
                        on_end=lambda: self._end(None),
                    )
                    await self._converse(sdk, process, from_process)
        except Unusable as error:
            self._end(str(error))
        except Exception as error:  # noqa: BLE001 - the SDK's tasks may raise anything at a strange server
            _log.info("%s: the session failed", self._name, exc_info=error)
            self._end("does not keep to the protocol")
        finally:
            self._tell()
            if process is not None:
                await process.end(self._within_s)

    async def _converse(self, sdk: Sdk, process: ServerProcess, from_process: Any) -> None:
        to_process, from_session = anyio.create_memory_object_stream[Any](math.inf)

        async def send() -> None:
            with from_session:
                async for message in from_session:
                    process.write(mcp_sdk.to_json(message))

        async def notice(message: Any) -> None:
            if isinstance(getattr(message, "root", message), sdk.types.ToolListChangedNotification):
                self._listing = None

        sending = asyncio.create_task(send())
        about = sdk.types.Implementation(name="dspy-bridge", version=__version__)
        try:
            async with sdk.session(
                from_process, to_process, message_handler=notice, client_info=about
            ) as session:
                await self._initialize(session)
                if not self.over:
                    self._session = session
                    self._opened.set_result(None)
                await asyncio.wait({self._over})
                if self._why is None:
                    self._why = await process.fate()
                    if self._session is None:
                        self._why += " before it was ready. Its stderr is in the log at level info"
                self._tell()
        finally:
            to_process.close()
            await asyncio.wait({sending})

    async def _initialize(self, session: Any) -> None:
        hello = self._request(session.initialize())
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait({hello, self._over}, timeout=START_TIMEOUT_S, return_when=first)
        if not hello.done():
            hello.cancel()
            await asyncio.wait({hello})
            self._end(
                f"did not answer 'initialize' within {START_TIMEOUT_S:g} s. Check that its command in --mcp "
                "starts a server that speaks over stdin and stdout"
            )
        elif (error := hello.exception()) is not None:
            self._end(f"did not accept 'initialize' ({_text(error)})")

    def _heard(self, sdk: Sdk, line: bytes, to_session: Any) -> None:
        try:
            message = sdk.parse(line)
        except ValueError:
            _log.info("%s: a line of its stdout is no message of the protocol", self._name)
            return
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            to_session.send_nowait(sdk.wrap(message))

    def _end(self, why: str | None) -> None:
        """Nothing more can be asked, because the server ``why`` (None: how its process ends has to tell)."""
        if not self.over:
            self._why = why
            self._over.set_result(None)

    def _tell(self) -> None:
        """Let those who wait know that it is over, and why."""
        self._end("was interrupted")
        self._why = self._why or "has ended"
        for future in (self._told, self._opened):
            if not future.done():
                future.set_result(None)
        for request in self._requests:
            request.cancel()


def _error(name: str, what: str) -> BridgeError:
    return BridgeError(f"The MCP server {name!r} {what}.", code=Code.TOOL_ERROR)


def _text(error: BaseException) -> str:
    if isinstance(error, pydantic.ValidationError):
        return "its answer does not keep to the protocol"
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= MAX_ERROR_CHARS else f"{text[:MAX_ERROR_CHARS]}…"
