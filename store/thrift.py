"""Thrift's compact protocol, as much of it as Parquet's page headers and footers use.

A struct is a dict from field number to (type, value), or bytes that were written already; a list is (type of its
elements, elements). What is read is written back to the same bytes, so a footer can be changed in a few fields and keep
the rest, whoever wrote it.

Source: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

import struct as _struct
from collections.abc import Sequence
from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, _MAP, STRUCT = range(1, 13)

Struct = dict[int, tuple[int, Any]]

_INTEGERS = {I16, I32, I64}
_SMALL_LIST = 15


class Malformed(ValueError):
    """Bytes that are no struct of the compact protocol."""


def read_struct(data: bytes | memoryview, at: int = 0) -> tuple[Struct, int]:
    """The struct that begins at a byte, and the byte after it. Raises Malformed."""
    try:
        return _read_struct(data, at, 0)
    except (IndexError, _struct.error) as error:
        raise Malformed("it ends too early") from error


def write_struct(fields: Struct, *, after: int = 0) -> bytes:
    """The bytes of a struct; or those that go on from a struct whose last field was `after` (and whose end was cut off)."""
    out = bytearray()
    _write_struct(out, fields, after)
    return bytes(out)


def varint(number: int) -> bytes:
    """A number that is not negative, seven bits a byte, the least first."""
    out = bytearray()
    _write_varint(out, number)
    return bytes(out)


def integer(value: int) -> tuple[int, int]:
    """A 32-bit field."""
    return I32, value


def long(value: int) -> tuple[int, int]:
    """A 64-bit field."""
    return I64, value


def text(value: str) -> tuple[int, bytes]:
    """A string field."""
    return BINARY, value.encode()


def list_of(kind: int, values: Sequence[Any]) -> tuple[int, tuple[int, list[Any]]]:
    """A list field; its elements have no type of their own."""
    return LIST, (kind, list(values))


def _read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7
        if shift > 70:
            raise Malformed("a number has no end")


def _read_struct(data: bytes | memoryview, at: int, depth: int) -> tuple[Struct, int]:
    if depth > 32:
        raise Malformed("structs are nested without end")
    fields: Struct = {}
    field = 0
    while head := data[at]:
        at += 1
        kind = head & 0x0F
        if head >> 4:
            field += head >> 4
        else:
            number, at = _read_varint(data, at)
            field = (number >> 1) ^ -(number & 1)
        value, at = (None, at) if kind in (TRUE, FALSE) else _read_value(data, at, kind, depth)
        fields[field] = (kind, value)
    return fields, at + 1


def _read_value(data: bytes | memoryview, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in _INTEGERS:
        number, at = _read_varint(data, at)
        return (number >> 1) ^ -(number & 1), at
    if kind == BINARY:
        size, at = _read_varint(data, at)
        if at + size > len(data):
            raise Malformed("a string ends after the data")
        return bytes(data[at : at + size]), at + size
    if kind == STRUCT:
        return _read_struct(data, at, depth + 1)
    if kind in (LIST, SET):
        size, element = data[at] >> 4, data[at] & 0x0F
        at += 1
        if size == _SMALL_LIST:
            size, at = _read_varint(data, at)
        if size > len(data):
            raise Malformed("a list is longer than the data")
        values = []
        for _ in range(size):
            value, at = _read_value(data, at, element, depth)
            values.append(value)
        return (element, values), at
    if kind in (BYTE, TRUE, FALSE):  # a boolean in a list is a byte
        return data[at], at + 1
    if kind == DOUBLE:
        return _struct.unpack_from("<d", data, at)[0], at + 8
    raise Malformed(f"there is no type {kind}")


def _write_varint(out: bytearray, number: int) -> None:
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _write_struct(out: bytearray, fields: Struct, last: int = 0) -> None:
    for field in sorted(fields):
        kind, value = fields[field]
        if 0 < field - last < 16:
            out.append((field - last) << 4 | kind)
        else:
            out.append(kind)
            _write_varint(out, field << 1 if field >= 0 else (-field << 1) - 1)
        last = field
        if kind not in (TRUE, FALSE):
            _write_value(out, kind, value)
    out.append(0)


def _write_value(out: bytearray, kind: int, value: Any) -> None:
    if kind in _INTEGERS:
        _write_varint(out, value << 1 if value >= 0 else (-value << 1) - 1)
    elif kind == BINARY:
        _write_varint(out, len(value))
        out += value
    elif kind == STRUCT:
        if isinstance(value, bytes):
            out += value
        else:
            _write_struct(out, value)
    elif kind in (LIST, SET):
        element, values = value
        if len(values) < _SMALL_LIST:
            out.append(len(values) << 4 | element)
        else:
            out.append(_SMALL_LIST << 4 | element)
            _write_varint(out, len(values))
        for each in values:
            _write_value(out, element, each)
    elif kind == DOUBLE:
        out += _struct.pack("<d", value)
    else:
        out.append(value)
