"""Prompts: where they come from, and what is wrong with one, by its file and line."""

import csv
import io
import json
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InvalidOption, InvalidPrompt
from .json_values import DEEPEST, json_object

Given = TypeVar("Given")
Made = TypeVar("Made")

TEXTS = ("prompt", "text", "messages")
"""The fields of a record that hold its text; the first that is there counts."""

_CELLS = threading.Lock()
"""Held while csv's limit of a cell is other than the process's."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text, and whether the model is to write after it, or what it is to be taken to have written; `where` names it in
    errors. In place of the text there may be the messages of a chat, the supplied answer included."""

    text: str
    where: str
    generate: bool = True
    completion: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, Any], ...] = ()

    @property
    def asked(self) -> tuple[Mapping[str, Any], ...]:
        """The messages that the model answers: all, unless the last is the assistant's own."""
        answered = self.messages and self.messages[-1]["role"] == "assistant"
        return self.messages[:-1] if answered else self.messages

    @property
    def record(self) -> dict[str, Any]:
        """The fields of the prompt's record that hold its text."""
        if self.messages:
            return {"messages": list(self.messages)}
        if self.completion:
            return {"prompt": self.text, "completion": self.completion}
        return {"prompt" if self.generate else "text": self.text}

    def __post_init__(self) -> None:
        if not self.text and not self.messages:
            raise InvalidPrompt(self.where, "the prompt is empty; write some text or remove it")
        try:
            (self.text + self.completion).encode()
        except UnicodeEncodeError as error:
            raise InvalidPrompt(self.where, f"the prompt holds half a character (at {error.start})") from error
        object.__setattr__(self, "metadata", self._as_json("metadata", json_object, self.metadata))
        messages = self._as_json("messages", lambda each: tuple(map(json_object, each)), self.messages)
        object.__setattr__(self, "messages", messages)

    def _as_json(self, what: str, made: Callable[[Given], Made], given: Given) -> Made:
        try:
            return made(given)
        except ValueError as error:
            raise InvalidPrompt(self.where, f"its {what} cannot be written as JSON: {error}") from error


def prompts_from(source: Iterable[str | Mapping[str, Any] | Prompt] | os.PathLike[str]) -> list[Prompt]:
    """Prompts from Python: strings, mappings as in a .jsonl file, or a path that `read_prompts` reads.

    Raises InvalidPrompt or InvalidOption.
    """
    if isinstance(source, os.PathLike):
        return read_prompts(Path(source))
    if isinstance(source, str):
        raise InvalidOption("prompts", source, "give a list of prompts, or a pathlib.Path to a file of them")
    if isinstance(source, Mapping):
        raise InvalidOption("prompts", type(source), "give a list of prompts: [record] for one")
    if rows := _rows_of_table(source):
        raise InvalidOption("prompts", type(source), f"give a list of prompts: {rows} has its rows")
    records = ({"prompt": record} if isinstance(record, str) else record for record in source)
    return [_prompt(record, f"prompt {number}") for number, record in enumerate(records, 1)]


def _rows_of_table(source: object) -> str | None:
    """What gives the rows of a table of pyarrow, polars or pandas, which iterates over its columns; None for what is no table."""
    calls = {"to_pylist": "table.to_pylist()", "to_dicts": "df.to_dicts()", "to_dict": 'df.to_dict("records")'}
    is_table = hasattr(source, "columns")
    return next((call for method, call in calls.items() if is_table and hasattr(source, method)), None)


def sources(prompts: Iterable[Prompt]) -> tuple[list[str], int]:
    """The files that prompts came from, as they were named, and how many came from none."""
    found = [re.fullmatch(r"(.*), (?:line|row) \d+", prompt.where, re.DOTALL) for prompt in prompts]
    return list(dict.fromkeys(match[1] for match in found if match)), found.count(None)


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file, or of standard input.

    `.txt`       a prompt a line
    `.jsonl`     an object a line, with `prompt`, which the model continues unless there is a `completion`, which then counts
                 as written by it; or `text`, which is captured as it stands; or `messages`, a chat, whose last message
                 counts as written if it is the assistant's. Every other field becomes metadata. Blank lines are passed over
    `.csv`       the same with a row for an object; its first row names the columns
    `.parquet`   the same, and so is a folder that Hugging Face's `Dataset.save_to_disk` wrote
    `-`          standard input: as .jsonl when it begins with `{`, else as .txt

    Raises InvalidPrompt, naming file and line or row, or InvalidOption for another ending.
    """
    try:
        prompts = list(_read(path))
    except OSError as error:
        raise InvalidPrompt(str(path), f"cannot be read: {error.strerror or error}") from error
    except (pa.ArrowInvalid, csv.Error) as error:
        raise InvalidPrompt(str(path), f"cannot be read: {str(error).splitlines()[0]}") from error
    if not prompts:
        raise InvalidPrompt(str(path), "holds no prompt")
    return prompts


def _read(path: Path) -> Iterator[Prompt]:
    if path == Path("-"):
        data = sys.stdin.buffer.read()
        reader = _jsonl if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{" else _txt
        return reader(_decoded("standard input", data))
    if path.is_dir():
        return _dataset(path)
    readers: Mapping[str, Callable[[Path], Iterator[Prompt]]] = {
        ".txt": lambda path: _txt(_decoded(path, path.read_bytes())),
        ".jsonl": lambda path: _jsonl(_decoded(path, path.read_bytes())),
        ".csv": _csv,
        ".parquet": _parquet,
    }
    if path.suffix not in readers:
        kinds = f"{', '.join(readers)} files, a folder of Dataset.save_to_disk, or - (standard input)"
        raise InvalidOption("prompts", str(path), f"prompts come from {kinds}")
    return readers[path.suffix](path)


def _csv(path: Path) -> Iterator[Prompt]:
    text = "".join(line for _, line in _decoded(path, path.read_bytes(), keep_ends=True))
    with _cells_of(len(text)):
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader]
    names = reader.fieldnames or ()
    _check_columns(path, names)
    for line, row in rows:
        where = f"{path}, line {line}"
        if None in row or None in row.values():
            raise InvalidPrompt(where, f"it has not as many fields as the first line, {len(names)}")
        yield _prompt({name: value for name, value in row.items() if value or name not in TEXTS}, where)


@contextmanager
def _cells_of(length: int) -> Iterator[None]:
    """Let a cell of CSV be so long. The limit is the whole process's: one file is read at a time, and then it is as before."""
    with _CELLS:
        before = csv.field_size_limit()
        csv.field_size_limit(max(before, length))
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _parquet(path: Path) -> Iterator[Prompt]:
    with pq.ParquetFile(path) as file:
        yield from _rows(path, file.iter_batches())


def _dataset(path: Path) -> Iterator[Prompt]:
    if (path / "dataset_dict.json").exists():
        splits = _of_dataset(path / "dataset_dict.json", lambda said: [path / name for name in said["splits"]])
        raise InvalidOption("prompts", str(path), f"name one of its splits: {', '.join(map(str, splits))}")
    if not (path / "state.json").exists():
        raise InvalidOption("prompts", str(path), "it is a folder, but not one that Dataset.save_to_disk wrote")
    files = _of_dataset(path / "state.json", lambda said: [path / each["filename"] for each in said["_data_files"]])
    for file in files:
        with pa.memory_map(str(path / file.name)) as source, pa.ipc.open_stream(source) as batches:
            yield from _rows(file, batches)


def _of_dataset(file: Path, paths: Callable[[Any], list[Path]]) -> list[Path]:
    """The paths that a file beside a data set's files names."""
    try:
        return paths(json.loads(file.read_bytes()))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidPrompt(str(file), "it is damaged: it does not name the data set's files; save it again") from error


def _rows(path: Path, batches: Iterable[pa.RecordBatch]) -> Iterator[Prompt]:
    number = 0
    for batch in batches:
        _check_columns(path, batch.schema.names)
        for row in batch.to_pylist():
            number += 1
            record = {name: _plain(value) for name, value in row.items() if value is not None or name not in TEXTS}
            yield _prompt(record, f"{path}, row {number}")


def _check_columns(path: Path, names: Sequence[str]) -> None:
    if twice := _twice(names):
        raise InvalidPrompt(str(path), f'it has two columns "{twice}"; name one of them otherwise')


def _twice(names: Sequence[str]) -> str | None:
    """The first name that is there twice."""
    return next((name for name, n in Counter(names).items() if n > 1), None)


def _plain(value: object) -> object:
    """A value of Arrow as JSON has it: times and decimal numbers become texts."""
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _decoded(path: Path | str, data: bytes, *, keep_ends: bool = False) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(keep_ends), 1):
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
            record = json.loads(line, parse_constant=_refuse_constant, object_pairs_hook=_object)
        except ValueError as error:
            raise InvalidPrompt(where, f"it is not JSON: {error}") from error
        except RecursionError as error:
            raise InvalidPrompt(where, f"it has more than {DEEPEST} lists and objects within one another") from error
        yield _prompt(record, where)


def _prompt(record: object, where: str) -> Prompt:
    if isinstance(record, Prompt):
        return record
    if not isinstance(record, Mapping):
        raise InvalidPrompt(where, 'it is not an object with a "prompt" or a "text"')
    name = next((name for name in TEXTS if name in record), None)
    if name is None:
        fields = ", ".join(map(str, record)) or "nothing"
        raise InvalidPrompt(where, f'it has no "prompt", no "text" and no "messages", only {fields}')
    if name == "messages":
        return _chat(record, where)
    if not isinstance(record[name], str):
        raise InvalidPrompt(where, f'its "{name}" is not a text')
    completion = record.get("completion") or "" if name == "prompt" else ""
    if not isinstance(completion, str):
        raise InvalidPrompt(where, 'its "completion" is not a text')
    metadata = _beside(record, but={name, "completion"} if name == "prompt" else {name})
    generate = name == "prompt" and not completion
    return Prompt(record[name], where, generate=generate, completion=completion, metadata=metadata)


def _chat(record: Mapping[Any, Any], where: str) -> Prompt:
    given, messages = record["messages"], list[dict[str, Any]]()
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise InvalidPrompt(where, 'its "messages" are not a list')
    for number, message in enumerate(given, 1):
        if not isinstance(message, Mapping):
            raise InvalidPrompt(where, f'its message {number} is not an object with a "role" and a "content"')
        for name in ("role", "content"):
            if not isinstance(message.get(name), str):
                raise InvalidPrompt(where, f'its message {number} has no "{name}" that is a text')
        messages.append({str(name): value for name, value in message.items() if value is not None})
    *before, last = messages or [{"role": "", "content": ""}]
    if not before and last["role"] in ("", "assistant"):
        raise InvalidPrompt(where, 'its "messages" have none that the assistant is to answer')
    if record.get("completion"):
        raise InvalidPrompt(where, 'it has "messages" and a "completion"; make that the last message, the assistant\'s')
    completion = last["content"] if last["role"] == "assistant" else ""
    metadata = _beside(record, but={"messages", "completion"})
    return Prompt(
        "", where, generate=not completion, completion=completion, metadata=metadata, messages=tuple(messages)
    )


def _beside(record: Mapping[Any, Any], *, but: Collection[str]) -> dict[Any, Any]:
    return {key: value for key, value in record.items() if key not in but}


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if twice := _twice([name for name, _ in pairs]):
        raise ValueError(f'"{twice}" is there twice')
    return dict(pairs)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")
