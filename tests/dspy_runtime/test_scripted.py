"""The scripted LM: it reads any adapter's prompt and writes what that adapter can read."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any, Literal

import dspy
import pydantic
import pytest
from dspy import lm15

from bridge.dspy_runtime import loader
from bridge.dspy_runtime.adapters import adapter
from bridge.dspy_runtime.answer_writer import example, write_answer
from bridge.dspy_runtime.prompt_reader import read_prompt
from bridge.dspy_runtime.script_file import check_script, load_script
from bridge.dspy_runtime.scripted import AsyncScriptedEngine, ScriptedEngine
from bridge.dspy_runtime.signatures import build
from bridge.dspy_runtime.specs import ScriptEntry, SignatureSpec
from bridge.options import ServeOptions
from tests.support.handlers import scripted, spec

ADAPTERS = ("chat", "json", "xml")


class Address(pydantic.BaseModel):
    street: str
    number: int
    kind: Literal["home", "work"]
    previous: list[Address] = []


RICH = dspy.Signature(
    {
        "text": (str, dspy.InputField(desc="1. `fake` (str): is no field\nYour output fields are:")),
        "n": (int, dspy.InputField()),
        "answer": (str, dspy.OutputField(desc="two\nlines")),
        "count": (int, dspy.OutputField()),
        "ratio": (float, dspy.OutputField()),
        "ok": (bool, dspy.OutputField()),
        "kind": (Literal["x", "y; z"], dspy.OutputField()),
        "maybe": (float | None, dspy.OutputField()),
        "words": (list[str], dspy.OutputField()),
        "table": (dict[str, int], dspy.OutputField()),
        "address": (Address, dspy.OutputField()),
        "addresses": (list[Address], dspy.OutputField()),
        "code": (dspy.Code, dspy.OutputField()),
    },
    "Do it.\n\nWell.",
)


@pytest.fixture(autouse=True)
def _dspy() -> None:
    loader.load(ServeOptions())


def lm(*entries: dict[str, Any], **settings: Any) -> dspy.LM:
    made = spec(scripted(*entries))
    engine = ScriptedEngine(made.script or [], **settings)
    return dspy.LM(
        "scripted", engine=engine, async_engine=AsyncScriptedEngine(engine), cache=False, num_retries=2
    )


def ask(
    model: dspy.LM, signature: Any, adapter_name: str = "chat", module: Any = dspy.Predict, **inputs: Any
) -> Any:
    with dspy.context(lm=model, adapter=adapter(adapter_name)):
        return asyncio.run(module(signature).acall(**inputs))


@pytest.mark.parametrize("name", ADAPTERS)
def test_echoes_fit_every_type(name: str) -> None:
    found = ask(lm(), RICH, name, text="hello", n=3)
    assert found.answer == "hello"
    assert found.count == 0
    assert found.ok is False
    assert found.kind == "x"
    assert found.words == ["hello"]
    assert found.table == {}
    assert found.address.kind == "home"
    assert found.address.street == "hello"
    assert isinstance(found.addresses[0], Address)
    assert found.code.code == "hello" or found.code.code


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize(
    "kind",
    [
        {
            "type": "object",
            "properties": {"a": {"enum": ["q", "r"]}, "b": {"type": "integer", "minimum": 5}},
            "required": ["a", "b"],
        },
        {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}, "minItems": 2},
        {"type": "string", "maxLength": 3},
        {"type": "string", "minLength": 30},
        {"type": "integer", "maximum": -4},
        {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        {"const": "always"},
        {"type": ["boolean", "null"]},
        {
            "type": "object",
            "properties": {"deep": {"$ref": "#/$defs/D"}},
            "required": ["deep"],
            "$defs": {"D": {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}},
        },
    ],
    ids=json.dumps,
)
def test_echoes_fit_json_schemas(name: str, kind: dict[str, Any]) -> None:
    signature = build(SignatureSpec(inputs=["text"], outputs={"out": kind}))
    found = ask(lm(), signature, name, text="a longer text")
    annotation: Any = signature.output_fields["out"].annotation
    pydantic.TypeAdapter(annotation).validate_python(found.out)


@pytest.mark.parametrize(
    "text",
    [
        "int",
        "Literal['b', 'a']",
        "datetime",
        "date",
        "tuple[int, str]",
        "set[int]",
        "Any",
        "int | str",
        "None | int",
        "list[dict[str, list[int]]]",
        "dspy.Reasoning",
        "list",
        "dict",
    ],
)
@pytest.mark.parametrize("name", ["chat", "json"])
def test_echoes_fit_types_written_as_text(name: str, text: str) -> None:
    assert "out" in ask(lm(), build(f"text -> out: {text}"), name, text="x")


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize(
    "value",
    ["France", "two\nlines", 'quotes " and <tags> & [[ brackets ]]', "ünï ✓", " 100 degrees"],
    ids=repr,
)
def test_scripted_texts_come_back(name: str, value: str) -> None:
    found = ask(
        lm({"match": {"text": "Paris is"}, "outputs": {"completion": value}}),
        "text -> completion",
        name,
        text="Paris is",
    )
    assert found.completion.strip() == value.strip()


@pytest.mark.parametrize("name", ADAPTERS)
def test_scripted_values_of_other_types_come_back(name: str) -> None:
    outputs = {
        "count": 7,
        "words": ["a", "b & c"],
        "address": {"street": "S <1>", "number": 4, "kind": "work"},
        "ok": True,
    }
    found = ask(lm({"outputs": outputs}), RICH, name, text="x", n=1)
    assert (found.count, found.words, found.ok) == (7, ["a", "b & c"], True)
    assert found.address == Address(street="S <1>", number=4, kind="work")


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("module", [dspy.Predict, dspy.ChainOfThought])
def test_matching(name: str, module: Any) -> None:
    model = lm(
        {"match": {"text": "a", "n": 3}, "outputs": {"answer": "both"}},
        {"match": {"text": "a"}, "outputs": {"answer": "text"}},
        {"match": "needle", "outputs": {"answer": "substring"}},
        {"match": {"n": 4}, "outputs": {"answer": "number"}},
        {"match": {"gone": "x"}, "outputs": {"answer": "never"}},
    )

    def answer(**inputs: Any) -> str:
        return str(ask(model, "text, n: int -> answer", name, module, **inputs).answer)

    assert answer(text="a", n=3) == "both"
    assert answer(text="a", n=5) == "text"
    assert answer(text="a needle in hay", n=5) == "substring"
    assert answer(text="b", n=4) == "number"
    assert answer(text="echoed", n=5) == "echoed"


def test_chain_of_thought_reasons() -> None:
    model = lm({"outputs": {"reasoning": "One.\nTwo.", "answer": "42"}})
    found = ask(model, "question -> answer", "chat", dspy.ChainOfThought, question="?")
    assert (found.reasoning, found.answer) == ("One.\nTwo.", "42")
    assert ask(lm(), "question -> answer", "json", dspy.ChainOfThought, question="why").reasoning == "why"


def test_raw_text_is_sent_as_it_is() -> None:
    with pytest.raises(dspy.AdapterParseError, match="no format"):
        ask(lm({"text": "no format at all"}), "text -> n: int", text="x")


def test_an_entry_applies_as_often_as_it_says() -> None:
    model = lm({"outputs": {"a": "first"}, "times": 1}, {"outputs": {"a": "then"}})
    assert [ask(model, "q -> a", q="x").a for _ in range(3)] == ["first", "then", "then"]


@pytest.mark.parametrize("name", ADAPTERS)
def test_inputs_that_quote_headers_are_read(name: str) -> None:
    asking = "Respond with a JSON object in the following order of fields: `z`."
    quoting = f"x\n\n[[ ## n ## ]]\n9\n\n</text>\n\n<n>\n9\n</n>\n{asking}"
    system, user = (str(m["content"]) for m in adapter(name).format(RICH, [], {"text": quoting, "n": 3}))
    prompt = read_prompt(system, user)
    assert prompt is not None
    assert prompt.format == name
    assert prompt.inputs == {"text": quoting, "n": "3"}
    assert prompt.outputs == tuple(RICH.output_fields)


@pytest.mark.parametrize("name", ADAPTERS)
def test_prompts_alone_tell_the_types(name: str) -> None:
    signature = dspy.Signature("q -> s, i: int, f: float, b: bool, k: Literal['x','y'], d: dict[str, int]")
    system, user = (str(m["content"]) for m in adapter(name).format(signature, [], {"q": "v"}))
    prompt = read_prompt(system, user)
    assert prompt is not None
    values = {field: example(prompt.schemas[field], "v") for field in prompt.outputs}
    if name == "xml":
        values["d"] = {}  # its prompt shows the tags only
    assert adapter(name).parse(signature, write_answer(prompt.format, values)) == {
        "s": "v",
        "i": 0,
        "f": 0.0,
        "b": False,
        "k": "x",
        "d": {},
    }


def test_what_no_adapter_wrote_is_echoed() -> None:
    assert asyncio.run(lm().acall("hello")) == ["hello"]
    assert lm({"outputs": {"x": "scripted"}})("hello") == ["scripted"]


@pytest.mark.parametrize(
    ("error", "kind", "tries"),
    [
        ({"status": 401}, dspy.LMAuthError, 1),
        ({"status": 402}, dspy.LMBillingError, 1),
        ({"status": 404}, dspy.LMUnsupportedModelError, 1),
        ({"status": 400}, dspy.LMInvalidRequestError, 1),
        ({"status": 429, "retry_after_s": 0}, dspy.LMRateLimitError, 3),
        ({"code": "timeout", "retry_after_s": 0}, dspy.LMTimeoutError, 3),
        ({"status": 503, "retry_after_s": 0}, dspy.LMServerError, 3),
        ({"code": "transport", "retry_after_s": 0}, dspy.LMTransportError, 3),
        ({"code": "context_length"}, dspy.ContextWindowExceededError, 1),
    ],
)
def test_scripted_errors_take_dspys_own_way(error: dict[str, Any], kind: type[Exception], tries: int) -> None:
    entry = {"error": {"message": "It is so.", **error}}
    with pytest.raises(kind, match=r"It is so\."):
        ask(lm(entry), "q -> a", q="x")
    # Once fewer than the tries, DSPy's retries get over it, or do not try.
    model = lm({**entry, "times": tries - 1 or 1}, {"outputs": {"a": "ok"}})
    if tries > 1:
        assert ask(model, "q -> a", q="x").a == "ok"
    else:
        with pytest.raises(kind):
            ask(model, "q -> a", q="x")


class Sink:
    def __init__(self) -> None:
        self.content: list[str] = []
        self.thinking: list[str] = []
        self.times: list[float] = []

    async def send(self, chunk: Any) -> None:
        delta = chunk.choices[0].delta
        if delta.content:
            self.content.append(delta.content)
            self.times.append(time.monotonic())
        if delta.get("reasoning_content"):
            self.thinking.append(delta.reasoning_content)


def test_streams_token_by_token_at_the_pace() -> None:
    sink = Sink()
    model = lm({"outputs": {"a": "one two three four"}, "reasoning": "let me think"}, tokens_per_s=200)
    with dspy.context(lm=model, adapter=adapter("chat"), send_stream=sink, stream_listeners=[]):
        found = asyncio.run(dspy.Predict("q -> a").acall(q="x"))
    assert found.a == "one two three four"
    assert "".join(sink.content) == "[[ ## a ## ]]\none two three four\n\n[[ ## completed ## ]]"
    assert "".join(sink.thinking) == "let me think"
    assert len(sink.content) > 8
    assert sink.times[-1] - sink.times[0] >= (len(sink.times) - 1) / 200 * 0.9


def test_streams_synchronously_too() -> None:
    request = lm15.Request(model="scripted", messages=(lm15.Message.user("hello there"),))
    events = list(ScriptedEngine([ScriptEntry(delay_s=0.001)], tokens_per_s=10_000).stream(request))
    assert [event.type for event in events] == ["start", "delta", "delta", "end"]
    assert events[-1].usage.output_tokens > 0


def test_errors_come_through_streams() -> None:
    with (
        dspy.context(lm=lm({"error": {"status": 401}}), send_stream=Sink(), stream_listeners=[]),
        pytest.raises(dspy.LMAuthError),
    ):
        asyncio.run(dspy.Predict("q -> a").acall(q="x"))


def test_a_delay_is_kept_and_does_not_block() -> None:
    async def run() -> float:
        started = time.monotonic()
        with dspy.context(lm=lm({"delay_s": 0.1})):
            await asyncio.gather(*(dspy.Predict("q -> a").acall(q="x") for _ in range(20)))
        return time.monotonic() - started

    assert 0.1 <= asyncio.run(run()) < 1.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"match": 5}', "line 1"),
        ('{}\n\n{"outputs": {"a": 1}', "line 3"),
        ('{"outptus": {}}', "outptus"),
        ('{"error": {}}', "status or a code"),
        ('{"error": {"code": "nope"}}', "unknown error code"),
        ('{"error": {"status": 200}}', "line 1"),
        ('{"text": "a", "outputs": {}}', "exclude"),
        ('{"delay_s": -1}', "line 1"),
        ("[]", "line 1"),
        ("\xff", "line 1"),
        ("nonsense", "line 1"),
        ('{"times": 0}', "line 1"),
    ],
)
def test_a_broken_script_is_refused_with_the_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "script.jsonl"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as caught:
        check_script(str(path))
    assert "script.jsonl" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_script_files(tmp_path: Path) -> None:
    path = tmp_path / "script.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"outputs": {"a": "\xe2\x9c\x93"}}\r\n\n  \n{"delay_s": 1}')
    assert [entry.outputs for entry in load_script(str(path))] == [{"a": "✓"}, None]
    check_script(None)
    for missing in (tmp_path / "gone.jsonl", tmp_path):
        with pytest.raises(ValueError, match="can not be read"):
            check_script(str(missing))
    with pytest.raises(ValueError, match="tokens per second"):
        check_script(None, -1)
