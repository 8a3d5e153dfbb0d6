"""Images, audio, files and chat history in inputs: from the objects hosts write to DSPy's own types.

Nothing is read from this machine and nothing is fetched: data comes with the request, and an image's address
goes to the provider as it is. No error text quotes what it is about.
"""

from __future__ import annotations

import binascii
import json
import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, Union, get_args, get_origin
from urllib.parse import urlsplit

import dspy
import pydantic

from bridge.errors import BridgeError, Code, invalid_args

#: Puts DSPy's types in the place of the objects in a value that stands at a path.
Reader = Callable[[Any, str], Any]

_KEYS = {
    dspy.Image: ("url", "data", "media_type"),
    dspy.Audio: ("data", "format", "audio_format", "media_type", "url"),
    dspy.File: ("data", "media_type", "filename", "file_id", "file_data", "url"),
}
_NAMES = {dspy.Image: "image", dspy.Audio: "audio", dspy.File: "file"}
_IMAGES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
_SOUNDS = {b"ID3": "mp3", b"\xff\xfb": "mp3", b"\xff\xf3": "mp3", b"OggS": "ogg", b"fLaC": "flac"}
_FORMATS = {"mpeg": "mp3", "mpeg3": "mp3", "wave": "wav", "vnd.wave": "wav"}
_MEDIA_TYPE = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+_-]{0,100}", re.IGNORECASE)
_FORMAT = re.compile(r"[a-z0-9][a-z0-9.+_-]{0,30}", re.IGNORECASE)


def readers(inputs: Iterable[str], fields: Mapping[str, Any]) -> dict[str, Reader]:
    """What converts the media of a signature, by those of its input fields that have a place for any.

    ``fields`` are the types of all its fields.
    """
    found: dict[str, Reader] = {}
    in_messages = {name: kind for name, kind in fields.items() if kind is not dspy.History}
    for name in inputs:
        if read := _reader(fields[name], in_messages, found):
            found[name] = read
    return found


def _reader(kind: Any, fields: Mapping[str, Any], known: Mapping[str, Reader]) -> Reader | None:
    if isinstance(kind, type) and kind in _KEYS:
        return _single(kind)
    if kind is dspy.History:
        return _history(fields, known)
    arguments = get_args(kind)
    inner = [_reader(argument, fields, known) for argument in arguments]
    if not any(inner):
        return None
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _union(arguments, inner)
    if origin is dict:
        return _values(inner[1])
    if origin is tuple and arguments[-1] is not ...:
        return _items(inner)
    return _items(inner[0])


def member(path: str, name: str) -> str:
    """The place of an object's member."""
    return f"{path}.{name}" if name.isidentifier() else f"{path}[{json.dumps(name[:80])}]"


def _single(kind: Any) -> Reader:
    read = {dspy.Image: _image, dspy.Audio: _audio, dspy.File: _file}[kind]

    def convert(value: Any, path: str) -> Any:
        if isinstance(value, kind):
            return value
        if isinstance(value, str) and kind is not dspy.Image:
            return read({"url": value}, path)
        return read(_checked(value, kind, path), path)

    return convert


def _items(inner: Reader | list[Reader | None] | None) -> Reader:
    """For an array: one reader for all items, or a list of one for each."""

    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, (list, tuple)):
            raise invalid_args("An array is needed here.", path)
        each = inner if isinstance(inner, list) else [inner] * len(value)
        if len(each) != len(value):
            raise invalid_args(f"An array of {len(each)} is needed here.", path)
        return [
            read(item, f"{path}[{index}]") if read else item
            for index, (item, read) in enumerate(zip(value, each, strict=True))
        ]

    return convert


def _values(inner: Reader | None) -> Reader:
    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise invalid_args("An object is needed here.", path)
        return {key: inner(item, member(path, key)) if inner else item for key, item in value.items()}

    return convert


def _union(arguments: tuple[Any, ...], inner: list[Reader | None]) -> Reader:
    named = {_NAMES[kind]: read for kind, read in zip(arguments, inner, strict=True) if kind in _NAMES}
    others = set(arguments) - {type(None), *_KEYS, dspy.History}
    plain = any(read is None for kind, read in zip(arguments, inner, strict=True) if kind is not type(None))

    def convert(value: Any, path: str) -> Any:
        if (value is None and type(None) in arguments) or (isinstance(value, str) and str in others):
            return value
        if isinstance(value, dict) and (read := named.get(str(value.get("type")))):
            return read(value, path)
        failure = None
        for each in filter(None, inner):
            try:
                return each(value, path)
            except BridgeError as error:
                failure = failure or error
        if plain or failure is None:
            return value
        raise failure

    return convert


def _history(fields: Mapping[str, Any], known: Mapping[str, Reader]) -> Reader:
    def convert(value: Any, path: str) -> Any:
        if isinstance(value, dspy.History):
            return value
        messages = value
        if isinstance(value, dict):
            if unknown := [key for key in value if key != "messages"]:
                raise invalid_args(
                    f"Unknown key {unknown[0][:80]!r}: a history has messages.", member(path, unknown[0])
                )
            messages, path = value.get("messages"), f"{path}.messages"
        if not isinstance(messages, list):
            raise invalid_args('A history is {"messages": [{"question": "…", "answer": "…"}, …]}.', path)
        return {"messages": [message(item, f"{path}[{index}]") for index, item in enumerate(messages)]}

    def message(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise invalid_args("A message of a history is an object of fields and their values.", path)
        if fields.keys().isdisjoint(value):  # DSPy would send an empty turn
            raise invalid_args(
                f"A message of a history has fields of the signature: {', '.join(sorted(fields))}.", path
            )
        named = fields.keys() & known.keys()
        return {
            key: known[key](item, member(path, key)) if key in named else _shown(item, fields.get(key))
            for key, item in value.items()
        }

    return convert


def _shown(value: Any, kind: Any) -> Any:
    """A value of a message as the JSON that DSPy would show, where it fails to."""
    if isinstance(value, dict) and "tool_calls" in value:  # taken for DSPy's own
        try:
            dspy.ToolCalls.model_validate(value)
        except (pydantic.ValidationError, TypeError, ValueError):
            return json.dumps(value, ensure_ascii=False)
    if kind is str and isinstance(value, list) and not all(isinstance(item, str) for item in value):
        return json.dumps(value, ensure_ascii=False)
    return value


def _checked(value: Any, kind: Any, path: str) -> dict[str, str]:
    """The texts of a medium's object, those that are null left out."""
    name = _NAMES[kind]
    if not isinstance(value, dict):
        raise invalid_args(f'An object is needed here, such as {{"type": "{name}", "data": "…"}}.', path)
    for key, item in value.items():
        if key == "type":
            if item != name:
                raise invalid_args(f'"type" must be "{name}" here.', f"{path}.type")
        elif key not in _KEYS[kind]:
            allowed = ", ".join(_KEYS[kind])
            raise invalid_args(f"Unknown key {key[:80]!r}: type {name} has {allowed}.", member(path, key))
        elif item is not None and (not isinstance(item, str) or not item.strip()):
            raise invalid_args(f'"{key}" must be a text that is not empty.', f"{path}.{key}")
    return {key: item.strip() for key, item in value.items() if item is not None and key != "type"}


def _image(given: dict[str, str], path: str) -> Any:
    source = _only(given, path, "url", "data")
    if source == "data" or _is_data_uri(given["url"]):
        media_type, data = _data(given, source, path)
        media_type = media_type or _guessed_image(data)
        if media_type is None:
            raise invalid_args(
                'The image is no PNG, JPEG, GIF or WebP: its "media_type" must be given.', f"{path}.{source}"
            )
        if not media_type.startswith("image/"):
            raise invalid_args("The media type is no image's.", _type_place(given, source, path))
        return dspy.Image(url=f"data:{media_type};base64,{data}")
    _alone(given, "url", path)
    if not _is_address(given["url"]):
        raise invalid_args(
            "An image's address begins with https:// (or http://, gs://), or is a data: URI. Files of the "
            'worker\'s machine are not read: send their content in "data".',
            f"{path}.url",
        )
    return dspy.Image(url=given["url"])


def _audio(given: dict[str, str], path: str) -> Any:
    source = _only(given, path, "data", "url")
    media_type, data = _data(given, source, path)
    if media_type is not None and not media_type.startswith("audio/"):
        raise invalid_args("The media type is no sound's.", _type_place(given, source, path))
    named: list[str] = [key for key in ("format", "audio_format", "media_type") if key in given]
    if media_type is not None and source == "url":
        named.insert(0, "url")
    if len(named) > 1:
        raise invalid_args(f'"{named[0]}" and "{named[1]}" say the same: give one.', f"{path}.{named[1]}")
    found = media_type or (given[named[0]] if named else _guessed_sound(data))
    if found is None:
        raise invalid_args('The "format" of the sound must be given, for example "wav".', path)
    found = found.lower().removeprefix("audio/").removeprefix("x-")
    if not _FORMAT.fullmatch(found):
        raise invalid_args(
            'The format must be a name such as "wav" or "mp3".', f"{path}.{(*named, source)[0]}"
        )
    lm = dspy.settings.lm
    if getattr(lm, "engine", None) == "lm15" and lm.model.startswith("anthropic/"):
        # DSPy would send an empty text in its place and say nothing.
        about = {"path": path, "model": lm.model, "provider": "anthropic"}
        raise BridgeError("Anthropic's models take no audio.", code=Code.LM_INVALID_REQUEST, details=about)
    return dspy.Audio(data=data, audio_format=_FORMATS.get(found, found))


def _file(given: dict[str, str], path: str) -> Any:
    source = _only(given, path, "data", "file_id", "file_data", "url")
    name = {"filename": given["filename"]} if "filename" in given and _takes_names() else {}
    if source == "file_id":
        _alone(given, "file_id", path)
        return dspy.File(file_id=given["file_id"], **name)
    media_type, data = _data(given, source, path)
    if media_type is None:
        media_type = "application/pdf" if _head(data).startswith(b"%PDF-") else _guessed_image(data)
    if media_type is None:
        raise invalid_args('The "media_type" of the file must be given.', path)
    return dspy.File(file_data=f"data:{media_type};base64,{data}", **name)


def _takes_names() -> bool:
    # DSPy's own engine refuses files with names, whatever the provider; LiteLLM passes them on.
    return getattr(dspy.settings.lm, "engine", None) in ("auto", "litellm")


def _only(given: dict[str, str], path: str, *sources: str) -> str:
    found = [source for source in sources if source in given]
    if not found:
        raise invalid_args(f'"{sources[0]}" or "{sources[1]}" is needed.', path)
    if len(found) > 1:
        raise invalid_args(f'"{found[0]}" and "{found[1]}" exclude each other.', f"{path}.{found[1]}")
    return found[0]


def _alone(given: dict[str, str], source: str, path: str) -> None:
    if "media_type" in given:
        raise invalid_args(f'"media_type" does not go with "{source}".', f"{path}.media_type")


def _data(given: dict[str, str], source: str, path: str) -> tuple[str | None, str]:
    """The media type, if it is told, and the checked base64 of an object's source."""
    where, text = f"{path}.{source}", given[source]
    if source == "data":
        media_type: str | None = given.get("media_type")
    else:
        _alone(given, source, path)
        if not _is_data_uri(text):
            _refuse_address(where)
        head, comma, text = text[5:].partition(",")
        media_type, *settings = (part.strip() for part in head.split(";"))
        if not comma or not settings or settings[-1].lower() != "base64":
            raise invalid_args("A data: URI here is data:TYPE/SUBTYPE;base64,…", where)
    if media_type and not _MEDIA_TYPE.fullmatch(media_type):
        raise invalid_args("The media type is no TYPE/SUBTYPE.", _type_place(given, source, path))
    return (media_type or "").lower() or None, _base64(text, where)


def _refuse_address(where: str) -> NoReturn:
    raise invalid_args(
        "Only a data: URI can stand here: the worker fetches nothing and reads no files of its machine. Send "
        'the content in "data".',
        where,
    )


def _base64(text: str, where: str) -> str:
    text = text.replace("\n", "").replace("\r", "")  # command line tools write lines
    try:
        if binascii.a2b_base64(text, strict_mode=True):
            return text
    except (binascii.Error, ValueError):
        pass
    raise invalid_args("This is no base64.", where)


def _type_place(given: dict[str, str], source: str, path: str) -> str:
    return f"{path}.media_type" if "media_type" in given else f"{path}.{source}"


def _is_data_uri(text: str) -> bool:
    return text[:5].lower() == "data:"


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    well = parts.scheme in ("http", "https", "gs") and bool(parts.netloc)
    return well and text.isprintable() and " " not in text


def _head(data: str) -> bytes:
    return binascii.a2b_base64(data[:32])


def _guessed_image(data: str) -> str | None:
    head = _head(data)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _IMAGES.items() if head.startswith(magic)), None)


def _guessed_sound(data: str) -> str | None:
    head = _head(data)
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        return "wav"
    return next((kind for magic, kind in _SOUNDS.items() if head.startswith(magic)), None)
