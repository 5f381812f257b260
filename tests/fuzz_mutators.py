"""Ways to damage a file, each a pure function of its bytes and a source of random numbers."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable

Mutator = Callable[[bytes, random.Random], bytes]

_STRANGE: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\x00",
    "\x1b[2J",
    "x" * 5000,
    "../../../etc/passwd",
    [],
    {},
    [[]],
    {"": None},
)


def cut_short(data: bytes, source: random.Random) -> bytes:
    """What a full disk or a broken download leaves."""
    return data[: source.randrange(len(data))]


def flip_bits(data: bytes, source: random.Random) -> bytes:
    """One to eight bits of a bad disk."""
    changed = bytearray(data)
    for _ in range(source.randint(1, 8)):
        changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
    return bytes(changed)


def flip_at_the_front(data: bytes, source: random.Random) -> bytes:
    """The same among the first bytes, where formats keep lengths and magic numbers."""
    front = min(len(data), 64)
    return flip_bits(data[:front], source) + data[front:]


def swap_pieces(data: bytes, source: random.Random) -> bytes:
    """Two neighbouring pieces change places."""
    first, second, third = sorted(source.randrange(len(data) + 1) for _ in range(3))
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def double_piece(data: bytes, source: random.Random) -> bytes:
    """A piece stands there twice: duplicate keys, rows, records."""
    first, second = sorted(source.randrange(len(data) + 1) for _ in range(2))
    return data[:second] + data[first:]


def zero_piece(data: bytes, source: random.Random) -> bytes:
    """A block that was never written reads as zeros."""
    first, second = sorted(source.randrange(len(data) + 1) for _ in range(2))
    return data[:first] + bytes(second - first) + data[second:]


def insert_noise(data: bytes, source: random.Random) -> bytes:
    """Bytes of no encoding in the middle."""
    place = source.randrange(len(data) + 1)
    return data[:place] + source.randbytes(source.randint(1, 40)) + data[place:]


def append_noise(data: bytes, source: random.Random) -> bytes:
    """Bytes behind the end."""
    return data + source.randbytes(source.randint(1, 400))


def empty(data: bytes, source: random.Random) -> bytes:
    """Nothing, or nothing but white space."""
    return source.choice((b"", b" ", b"\n\n", b"\x00"))


def replace_all(data: bytes, source: random.Random) -> bytes:
    """Something else altogether."""
    return source.choice(
        (
            source.randbytes(source.randint(1, 3000)),
            b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n",
            b"<!DOCTYPE html><html><body>404</body></html>",
            b"PK\x03\x04" + bytes(60),
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b"null",
            b"[]",
            b"{}",
            b"0",
        )
    )


def other_encoding(data: bytes, source: random.Random) -> bytes:
    """Text as other systems write it."""
    text = data.decode("utf-8", "replace")
    how = source.choice(("utf-16", "utf-32", "utf-8-sig", "latin-1", "cp1252", "utf-7"))
    return text.encode(how, "replace")


def swap_digits(data: bytes, source: random.Random) -> bytes:
    """Numbers in a text become other numbers, mostly far too large."""
    places = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
    if not places:
        return flip_bits(data, source)
    place = source.choice(places)
    number = source.choice((b"9" * source.randint(1, 30), b"-", b"1e999", b"0x10", b"NaN"))
    return data[:place] + number + data[place + 1 :]


def change_length(data: bytes, source: random.Random) -> bytes:
    """A little-endian length of a binary format becomes another one."""
    if len(data) < 16:
        return flip_bits(data, source)
    width, code = source.choice(((4, "<I"), (8, "<Q")))
    place = source.randrange(min(len(data) - width, 4096))
    value = source.choice(
        (0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, source.getrandbits(48))
    )
    return data[:place] + struct.pack(code, value % 2 ** (8 * width)) + data[place + width :]


def change_json(data: bytes, source: random.Random) -> bytes:
    """One value somewhere in a JSON document, or in a line of JSON lines, is another, gone or twice."""
    lines = data.split(b"\n")
    place = source.randrange(len(lines))
    whole = True
    try:
        content = json.loads(data)
    except ValueError:
        whole = False
        try:
            content = json.loads(lines[place])
        except ValueError:
            return flip_bits(data, source)
    changed = json.dumps(_changed(content, source)).encode()
    if whole:
        return changed
    return b"\n".join([*lines[:place], changed, *lines[place + 1 :]])


def _changed(content: object, source: random.Random) -> object:
    """A copy of `content` in which one value, found by walking down, is a strange one, gone or renamed."""
    if isinstance(content, dict) and content and source.random() < 0.9:
        key = source.choice(list(content))
        rest = {name: value for name, value in content.items() if name != key}
        way = source.random()
        if way < 0.15:
            return rest
        if way < 0.25:
            return {**rest, key + "_": content[key]}
        return {**content, key: _changed(content[key], source)}
    if isinstance(content, list) and content and source.random() < 0.9:
        place = source.randrange(len(content))
        way = source.random()
        if way < 0.15:
            return content[:place] + content[place + 1 :]
        if way < 0.25:
            return content[: place + 1] + content[place:]
        return [*content[:place], _changed(content[place], source), *content[place + 1 :]]
    return source.choice(_STRANGE)


BYTES: tuple[Mutator, ...] = (
    cut_short,
    flip_bits,
    flip_at_the_front,
    swap_pieces,
    double_piece,
    zero_piece,
    insert_noise,
    append_noise,
    empty,
    replace_all,
)
"""For every file."""
TEXT: tuple[Mutator, ...] = (*BYTES, other_encoding, swap_digits)
JSON: tuple[Mutator, ...] = (*TEXT, *[change_json] * 8)
"""Damage that leaves JSON well formed gets further into a program, so it comes more often."""
BINARY: tuple[Mutator, ...] = (*BYTES, change_length, change_length)
