"""Values as JSON has them: what a record may hold beside its text, checked once, so that whoever writes or reads it later can.

Python's own encoder takes what other readers of JSON do not: numbers that are none, halves of characters, a name twice.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

DEEPEST = 100
"""Objects and lists within one another; more is no record of anybody's, and runs into the limits of readers."""


def json_object(given: Mapping[Any, Any]) -> dict[str, Any]:
    """A mapping as a JSON object: names are texts, what is within it lists, objects, texts, numbers, booleans and None.

    Raises ValueError that names the field and says what is wrong with it.
    """
    made: dict[str, Any] = {}
    for key, value in given.items():
        name = str(key)
        if name in made:
            raise ValueError(f'"{name}" is there twice')
        made[name] = _plain(value, f'"{_shown(name)}"', DEEPEST - 1)
        _check_text(name, "the name of a field")
    return made


def _plain(value: object, where: str, deeper: int) -> object:
    if isinstance(value, str):
        return _check_text(value, where)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}, which JSON does not have; give null (None) in its place, or a text")
        return value
    if isinstance(value, int):
        try:
            json.dumps(value)
        except ValueError as error:
            raise ValueError(f"{where} is a number of more digits than Python writes; give it as a text") from error
        return value
    if not isinstance(value, Mapping | list | tuple):
        raise ValueError(
            f"{where} is of type {type(value).__name__}, which JSON does not have; give a text or a number"
        )
    if not deeper:
        raise ValueError(f"{where} has more than {DEEPEST} lists and objects within one another")
    if not isinstance(value, Mapping):
        return [_plain(each, where, deeper - 1) for each in value]
    made: dict[str, Any] = {}
    for key, each in value.items():
        name = _name(key, where)
        if name in made:
            raise ValueError(f'{where} has "{_shown(name)}" twice')
        made[name] = _plain(each, where, deeper - 1)
    return made


def _name(key: object, where: str) -> str:
    """A key as JSON has it, as Python's encoder writes it."""
    if isinstance(key, str):
        return _check_text(key, where)
    if key is None or isinstance(key, bool | int | float):
        return json.dumps(key)
    raise ValueError(f"{where} has a name of type {type(key).__name__}; names are texts")


def _check_text(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} holds half a character (at {error.start}); leave it out") from error
    return text


def _shown(name: str) -> str:
    """A name in an error, which is one line that can be printed."""
    return name.encode("unicode_escape").decode() if not name.isprintable() else name
