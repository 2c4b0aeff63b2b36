"""Random edits of bytes that are hard for parsers: cuts, repetitions, splices, nesting and numbers of any size."""

from __future__ import annotations

import pickle
import random
import re

NUMBERS = (b"0", b"-1", b"1e308", b"nan", b"inf", b"4294967296", b"9" * 25, b"1" * 5000, b"0x" + b"f" * 300, b"1_0")
TEXTS = (b'"', b"'", b"=1+1", b"\x1b[31m", b"\r", b"\xff\xfe", b"\0", b"2001-13-45", b"null", b"\xe2\x80\xae", b"../")
SIZES = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff" * 8, b"\0\0\0\0\0\0\x01\0")
OPCODES = [
    getattr(pickle, name)
    for name in pickle.__all__
    if re.fullmatch("[A-Z][A-Z0-9_]+", name) and isinstance(getattr(pickle, name), bytes)
]
PIECES = {"text": NUMBERS + TEXTS, "pickle": (*OPCODES, *OPCODES, *SIZES, *NUMBERS[5:8])}


def edited(data: bytes, others: list[bytes], kind: str, drawn: random.Random) -> bytes:
    """`data` with one to eight edits; pieces of `others` are spliced in."""
    for _ in range(drawn.choice((1, 1, 1, 2, 3, 8))):
        data = EDITS[drawn.randrange(len(EDITS))](data, others, kind, drawn)
    return data


def cut(data: bytes, others: list[bytes], kind: str, drawn: random.Random) -> bytes:
    start = drawn.randrange(len(data) + 1)
    return data[:start] + data[start + drawn.choice((1, 2, 4, 30, len(data))) :]


def flip(data: bytes, others: list[bytes], kind: str, drawn: random.Random) -> bytes:
    at = drawn.randrange(len(data) + 1)
    return data[:at] + bytes([drawn.randrange(256)]) + data[at + 1 :]


def insert(data: bytes, others: list[bytes], kind: str, drawn: random.Random) -> bytes:
    at = drawn.randrange(len(data) + 1)
    return data[:at] + drawn.choice(PIECES[kind]) + data[at + drawn.choice((0, 0, 1, 4)) :]


def repeat(data: bytes, others: list[bytes], kind: str, drawn: random.Random) -> bytes:
    start = drawn.randrange(len(data) + 1)
    size = drawn.choice((1, 1, 2, 5, 40))
    times = drawn.choice((2, 10, 1000, 20_000))
    return data[:start] + data[start : start + size] * times + data[start + size :]


def nest(data: bytes, others: list[bytes], kind: str, drawn: random.Random) -> bytes:
    at = drawn.randrange(len(data) + 1)
    opening = drawn.choice(PIECES[kind] if kind == "pickle" else (b"[", b"{", b'{"a":', b"- ", b"[[", b"&a [*a,"))
    return data[:at] + opening * drawn.choice((10, 500, 20_000)) + data[at:]


def splice(data: bytes, others: list[bytes], kind: str, drawn: random.Random) -> bytes:
    other = drawn.choice(others)
    start, end = sorted(drawn.randrange(len(other) + 1) for _ in range(2))
    at = drawn.randrange(len(data) + 1)
    return data[:at] + other[start:end] + data[at + drawn.choice((0, end - start)) :]


def replace_number(data: bytes, others: list[bytes], kind: str, drawn: random.Random) -> bytes:
    """Replace a number by another one."""
    found = list(re.finditer(rb"[0-9]+", data))
    if not found:
        return data
    match = drawn.choice(found)
    return data[: match.start()] + drawn.choice(NUMBERS) + data[match.end() :]


EDITS = (cut, flip, flip, insert, insert, insert, repeat, nest, splice, replace_number)
