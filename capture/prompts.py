"""Prompts: where they come from, and what is wrong with one, by its file and line."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InvalidOption, InvalidPrompt


@dataclass(frozen=True)
class Prompt:
    """A text, and whether the model is to write after it; `where` names it in messages."""

    text: str
    where: str
    generate: bool = True
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.text:
            raise InvalidPrompt(self.where, "the prompt is empty; write some text or remove it")
        try:
            self.text.encode()
        except UnicodeEncodeError as error:
            raise InvalidPrompt(self.where, f"the prompt holds half a character (at {error.start})") from error


def prompts_from(source: Iterable[str | Mapping[str, Any] | Prompt] | os.PathLike[str]) -> list[Prompt]:
    """Prompts from Python: strings, mappings as in a .jsonl file, or a path to a .txt or .jsonl file.

    Raises InvalidPrompt or InvalidOption.
    """
    if isinstance(source, os.PathLike):
        return read_prompts(Path(source))
    if isinstance(source, str):
        raise InvalidOption("prompts", source, "give a list of prompts, or a pathlib.Path to a .txt or .jsonl file")
    records = ({"prompt": record} if isinstance(record, str) else record for record in source)
    return [_prompt(record, f"prompt {number}") for number, record in enumerate(records, 1)]


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file: `.txt`, a line each, or `.jsonl`, an object a line with `prompt` or `text`.

    `prompt` is continued by the model, `text` is captured as it stands; every other field becomes metadata. Blank lines
    of a .jsonl file are passed over. Raises InvalidPrompt, naming file and line, or InvalidOption for another ending.
    """
    readers = {".txt": _txt, ".jsonl": _jsonl}
    if path.suffix not in readers:
        raise InvalidOption("prompts", str(path), f"prompts come from {' or '.join(readers)} files")
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise InvalidPrompt(str(path), f"cannot be read: {error.strerror}") from error
    prompts = list(readers[path.suffix](_decoded(path, lines)))
    if not prompts:
        raise InvalidPrompt(str(path), "holds no prompt")
    return prompts


def _decoded(path: Path, lines: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            yield where, line.decode()
        except UnicodeDecodeError as error:
            raise InvalidPrompt(where, f"it is not UTF-8 (byte {error.start + 1})") from error


def _txt(lines: Iterable[tuple[str, str]]) -> Iterator[Prompt]:
    for where, line in lines:
        yield Prompt(line, where)


def _jsonl(lines: Iterable[tuple[str, str]]) -> Iterator[Prompt]:
    for where, line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_constant=_refuse_constant)
        except ValueError as error:
            raise InvalidPrompt(where, f"it is not JSON: {error}") from error
        yield _prompt(record, where)


def _prompt(record: object, where: str) -> Prompt:
    if isinstance(record, Prompt):
        return record
    if not isinstance(record, Mapping):
        raise InvalidPrompt(where, 'it is not an object with a "prompt" or a "text"')
    name = next((name for name in ("prompt", "text") if name in record), None)
    if name is None:
        raise InvalidPrompt(where, f'it has no "prompt" and no "text", only {", ".join(map(str, record)) or "nothing"}')
    if not isinstance(record[name], str):
        raise InvalidPrompt(where, f'its "{name}" is not a text')
    metadata = {str(key): value for key, value in record.items() if key != name}
    try:
        json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidPrompt(where, f"its metadata cannot be written as JSON: {error}") from error
    return Prompt(record[name], where, generate=name == "prompt", metadata=metadata)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")
