"""``dspy-bridge call`` against real workers, in pipes and on a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from bridge.cli.flags import Parser
from bridge.cli.serve import parse_serve
from bridge.cli.worker_flags import add_worker_flags, worker_flags
from tests.cli.running import BATCH, EXAMPLES, SCRIPTED, WAIT_S, command, environment, run, run_on_terminal

COMMANDS = ("--commands", "cli_commands")


def test_in_a_pipe_the_chunks_come_as_they_are() -> None:
    done = run(*BATCH, *SCRIPTED)
    chunks = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [chunk["type"] for chunk in chunks] == ["prediction"] * 4 + ["complete"]
    assert [chunk["seq"] for chunk in chunks] == list(range(5))
    assert chunks[-1]["scripted"]
    assert "canned" in done.stderr


def test_pretty_in_a_pipe_is_plain_text() -> None:
    done = run(*BATCH, *SCRIPTED, "--pretty")
    assert done.stdout.splitlines()[:4] == [
        "[1/4] Completed: France",
        "Progress: 25%",
        "[2/4] Completed: Jupiter",
        "Progress: 50%",
    ]
    assert done.stdout.splitlines()[-1].startswith("Done: 4 of 4 completed, 0 failed, in ")


def test_on_a_terminal_there_is_a_progress_bar() -> None:
    code, shown = run_on_terminal(*BATCH, *SCRIPTED)
    assert code == 0
    assert "[1/4] Completed: France" in shown
    assert "━" in shown
    assert "25%" in shown
    assert "Done: 4 of 4 completed" in shown


def test_raw_on_a_terminal() -> None:
    code, shown = run_on_terminal("call", "ping", "--raw")
    assert code == 0
    assert json.loads(shown)["type"] == "pong"


def test_tokens_grow_within_a_line_and_drive_nothing() -> None:
    _, shown = run_on_terminal("call", "tokens", *COMMANDS)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.replace("\x1b[31m", "<red>"))
    assert "answer: Paris [31m[bold]" in plain


def test_item_errors_are_shown_with_their_number() -> None:
    done = run(
        "call", "stream_predict_batch", "signature=text -> completion", 'items=[{"tixt": "x"}]', *SCRIPTED
    )
    assert json.loads(done.stdout.splitlines()[0])["code"] == "invalid_args"
    assert done.returncode == 1
    shown = run("show", stdin=done.stdout)
    assert shown.returncode == 1
    assert shown.stdout.startswith("[1/1] Failed: ")
    assert "0 of 1 completed, 1 failed" in shown.stdout


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["call", "ping"], 0),
        (["call", "no_such_command"], 1),
        (["call", "ping", "unknown=1"], 1),
        (["call", "ticks", "--timeout-ms", "50", *COMMANDS], 1),
        (["call", "ping", "--configure", '{"lm": {"model": "scripted"}}'], 0),
        (["call", "ping", "--configure", '{"adapter": "no-such-adapter"}'], 1),
        (["call", "die", *COMMANDS], 3),
        (["call", "ping", "--commands", "no_such_module"], 3),
        (["call", "ping", "--script", "/no/such/file"], 3),
        (["call"], 2),
        (["call", "ping", "--commands="], 2),
        (["serve", "--commands"], 2),
        (["serve", "--commands", "--debug"], 2),
        (["serve", "--commands="], 2),
        (["serve", "--tools="], 2),
        (["serve", "--mcp", "--debug=x"], 2),
        (["serve", "--mcp", "calc"], 2),
        (["serve", "--mcp", "a=x", "--mcp", "a=y"], 2),
        (["call", "ping", "--mcp", "a=x", "--mcp", "a=y"], 2),
        (["call", "ping", "--mcp", "not a name=x"], 2),
        (["call", "ping", "--mcp", "a=x 'y z'", "--mcp=b=x"], 0),
        (["call", "ping", "--modle", "x"], 2),
        (["call", "ping", "--adapter", "yaml"], 2),
        (["call", "ping", "--timeout-ms", "0"], 2),
        (["call", "ping", "--configure", "[]"], 2),
        (["call", "ping", "--raw", "--pretty"], 2),
        (["call", "ping", "x"], 2),
        (["call", "ping", "x=@/no/such/file"], 2),
        (["nonsense"], 2),
        (["--nonsense"], 2),
        (["show", "/no/such/file"], 2),
        (["describe", "no_such_command"], 2),
        (["doctor", "--nonsense"], 2),
        (["--help"], 0),
        (["call", "--help"], 0),
        (["--version"], 0),
    ],
)
def test_exit_codes(words: list[str], code: int) -> None:
    done = run(*words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code in (2, 3):
        assert done.stderr
        assert not done.stdout


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["cal", "ping"], "Did you mean 'call'?"),
        (["ping"], "dspy-bridge call ping"),
        (["--modle", "x"], "Did you mean '--model'?"),
        (["call", "ping", "--modle=x"], "Did you mean '--model'?"),
        (["call", "ping", "--adapter", "yaml"], "'chat', 'json', 'xml'"),
        (["describe", "pingg"], "Did you mean 'ping'?"),
        (["call"], "required: COMMAND\n"),
        (["serve", "--script-tokens-per-s", "-1"], "tokens per second, 0 or more, not '-1'"),
        (["call", "ping", "--script-tokens-per-s", "x"], "tokens per second, 0 or more, not 'x'"),
        (["serve", "--max-age-s", "x"], "seconds above 0, not 'x'"),
        (["serve", "--max-depth", "2"], "whole number, 8 or more, not '2'"),
        (["serve", "--commands"], "--commands: expected one argument"),
        (["serve", "--commands="], "name of a module"),
        (["serve", "--tools="], "name of a module"),
        (["serve", "--mcp"], "--mcp: expected one argument"),
        (
            ["serve", "--mcp", "calc"],
            "give NAME=COMMAND with a name of letters, digits, '_' and '-', as in calc=",
        ),
        (["serve", "--mcp", "=calc"], "not the name ''"),
        (["serve", "--mcp", "a.b=calc"], "not the name 'a.b'"),
        (["serve", "--mcp", "a="], "give a command after 'a=', as in a='python calc.py'"),
        (["serve", "--mcp", "a=''"], "give a command after 'a='"),
        (
            ["serve", "--mcp", "a='calc"],
            "the command of 'a' can not be read as a shell would: No closing quotation",
        ),
        (
            ["serve", "--mcp", "a=x", "--mcp", "a=y"],
            "two servers have the name 'a'. Give each a name of its own.",
        ),
        (["call", "die", *COMMANDS], "exit code 9"),
        (["call", "ping", "--commands", "no_such_module"], "no_such_module"),
    ],
)
def test_what_is_wrong_is_said_with_what_is_right(words: list[str], hint: str) -> None:
    assert hint in run(*words).stderr


def test_flags_that_may_be_repeated_are_handed_on_as_they_are() -> None:
    words = ["--mcp=a=npx -y 'the server' \"it's\"", "--tools=one", "--mcp", "b-2_C=x=y", "--tools", "two"]
    words += ["--commands=c", "--debug"]
    parser = Parser("test", "")
    add_worker_flags(parser)
    for given in (words, worker_flags(parser.parse(words))):
        options = parse_serve(given, {})
        assert options.mcp == (("a", ("npx", "-y", "the server", "it's")), ("b-2_C", ("x=y",)))
        assert options.tools == ("one", "two")
        assert options.commands == ("c",)
        assert options.debug
    assert (parse_serve([], {}).mcp, parse_serve([], {}).tools) == ((), ())


def test_unknown_commands_are_explained() -> None:
    done = run("call", "pingg", "--pretty")
    assert "Error: Unknown streaming command: pingg (unknown_command)\nDid you mean ping?" in done.stdout


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    with subprocess.Popen(
        command("call", "flood", *COMMANDS),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(WAIT_S) == 141


def test_ctrl_c_cancels_the_request() -> None:
    with subprocess.Popen(
        command("call", "ticks", *COMMANDS),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout
        assert process.stderr
        assert json.loads(process.stdout.readline())["type"] == "tick"
        process.send_signal(signal.SIGINT)
        last = json.loads(process.stdout.readline())
        assert (last["type"], last["reason"]) == ("cancelled", "client")
        assert process.stderr.read() == b""
        assert process.wait(WAIT_S) == 130


def test_ctrl_c_on_a_terminal_reaches_the_worker_only_as_a_cancel() -> None:
    typed = False

    def type_ctrl_c(shown: str, process: subprocess.Popen[bytes]) -> None:
        nonlocal typed
        if "tick: 0" in shown and not typed:
            typed = True
            os.killpg(process.pid, signal.SIGINT)  # what the terminal does with ctrl-C

    code, shown = run_on_terminal("call", "ticks", *COMMANDS, on_output=type_ctrl_c)
    assert code == 130
    assert "Cancelled on your request." in shown


def test_a_second_ctrl_c_does_not_wait_for_the_worker() -> None:
    with subprocess.Popen(
        command("call", "stubborn", *COMMANDS),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stderr
        assert b"stubborn" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
        process.stderr.read()


def test_show_reads_files_and_refuses_what_is_no_chunk(tmp_path: Path) -> None:
    file = tmp_path / "chunks.ndjson"
    file.write_text(
        '{"type":"ready"}\n\n{"id":1,"type":"cancelled","reason":"client","done":true}\n{"type":"bye"}\n'
    )
    done = run("show", str(file))
    assert (done.returncode, done.stdout) == (1, "Cancelled on your request.\n")
    assert "Line 1 is no JSON object" in run("show", stdin="[1]\n").stderr


def test_describe_lists_and_explains() -> None:
    listed = run("describe", *COMMANDS).stdout
    assert "  ping " in listed
    assert "  ticks " in listed
    explained = run("describe", "stream_predict_batch").stdout
    assert "  items: list of object (required)" in explained
    assert "chunk prediction:" in explained
    assert "  config: CallConfig or null (default null)" in explained
    assert "\nCallConfig:\n" in explained
    assert "  temperature: number ≥ 0 or null (default null)" in explained
    told = json.loads(run("describe", "stream_predict_batch", "--json").stdout)
    assert list(told["commands"]) == ["stream_predict_batch"]
    assert "items" in told["commands"]["stream_predict_batch"]["args"]["properties"]


def test_values_arrive_with_their_types() -> None:
    done = run("call", "ping", 'data={"n": 1, "s": "é\u2028", "big": 123456789012345678901234567890}')
    assert json.loads(done.stdout)["data"] == {"n": 1, "s": "é\u2028", "big": 123456789012345678901234567890}


def test_items_from_stdin() -> None:
    text = (EXAMPLES / "quickstart.jsonl").read_text()
    done = run(
        "call", "stream_predict_batch", "signature=text -> completion", "items=-", *SCRIPTED, stdin=text
    )
    assert len(done.stdout.splitlines()) == 5
