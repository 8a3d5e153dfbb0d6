"""The gRPC workers' host, ``grpc_host KIND``: grpcio's own blocking client, which is handed bytes.

It reads streams on the calling thread, as gRPC's guide to performance in Python advises. That is its
fastest way; a server that writes as fast as it can is then what limits the rate.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import grpc
from grpc.experimental import ChannelOptions

from tests.benchmarks.peers.programs.host import serve

SERVER = "tests.benchmarks.peers.programs.grpc_server"


class GrpcServer:
    """A server process and a channel to it."""

    def __init__(self, kind: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        socket = Path(self._folder.name) / "grpc.sock"
        self._process = subprocess.Popen(
            [sys.executable, "-m", SERVER, kind, str(socket)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout
        self._process.stdout.readline()
        options = [(ChannelOptions.SingleThreadedUnaryStream, 1)]
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=options)
        self._stream = self._channel.unary_stream("/Bench/Stream")
        self._answer = self._channel.unary_unary("/Bench/Answer")

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

    def stream(self, count: int, text: str) -> int:
        """Count the messages of one call."""
        return sum(1 for _ in self._stream(json.dumps({"count": count, "text": text}).encode()))

    def answer(self) -> None:
        """One call."""
        self._answer(b"{}")

    def close(self) -> None:
        """The server ends when its stdin does."""
        self._channel.close()
        self._process.communicate()
        self._folder.cleanup()


if __name__ == "__main__":
    serve(partial(GrpcServer, sys.argv[1]))
