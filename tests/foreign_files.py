"""What others do to files: faults, each a name and what becomes of a file's bytes."""

from __future__ import annotations

import os
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

Damage = Callable[[Path], None]


def becomes(change: Callable[[bytes], bytes]) -> Damage:
    def damage(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return damage


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _first_number(data: bytes, number: bytes) -> bytes:
    return re.sub(rb'(?<=": )-?[0-9][0-9.e+-]*', number, data, count=1)


def _first_text(data: bytes, text: bytes) -> bytes:
    at = data.index(b'": "') + 4
    return data[:at] + text + data[at:]


ANY: dict[str, Damage] = {
    "empty": becomes(lambda data: b""),
    "blank": becomes(lambda data: b" \n\n"),
    "zeros": becomes(lambda data: b"\0" * len(data)),
    "noise": becomes(lambda data: bytes((i * 197 + 31) % 256 for i in range(999))),
    "UTF-16": becomes(lambda data: data.decode().encode("utf-16")),
    "UTF-16 without a mark": becomes(lambda data: data.decode().encode("utf-16-be")),
    "a folder": a_folder,
    "a pipe": a_pipe,
    "a loop": a_loop,
}
JSON: dict[str, Damage] = {
    **ANY,
    "cut": becomes(lambda data: data[: len(data) // 2]),
    "a list": becomes(lambda data: b"[]"),
    "null": becomes(lambda data: b"null"),
    "a number": becomes(lambda data: b"3"),
    "a text": becomes(lambda data: b"hello there"),
    "another object": becomes(lambda data: b'{"a": 1}'),
    "Latin-1": becomes(lambda data: _first_text(data, "\xe9".encode("latin-1"))),
    "deep": becomes(lambda data: b"[" * 100_000),
    "deep, and closed": becomes(lambda data: data.rstrip()[:-1] + b', "more": ' + b"[" * 300 + b"]" * 300 + b"}"),
    "5000 digits": becomes(lambda data: data.rstrip()[:-1] + b', "more": ' + b"7" * 5000 + b"}"),
    "infinite": becomes(lambda data: _first_number(data, b"1e999")),
    "twice": becomes(lambda data: b'{"x": 1, "x": 2, ' + data.lstrip()[1:]),
    "a comma more": becomes(lambda data: data.rstrip()[:-1] + b",}"),
    "two of them": becomes(lambda data: data + data),
}
JSON_HARMLESS: dict[str, Damage] = {
    "BOM": becomes(lambda data: b"\xef\xbb\xbf" + data),
    "CRLF": becomes(lambda data: data.replace(b"\n", b"\r\n")),
    "an unknown key": becomes(lambda data: b'{"nobody knows": [1], ' + data.lstrip()[1:]),
}


def _cell(data: bytes, line: int, column: int, text: bytes) -> bytes:
    lines = data.split(b"\n")
    cells = lines[line].split(b",")
    cells[column] = text
    lines[line] = b",".join(cells)
    return b"\n".join(lines)


def _column(data: bytes, name: bytes) -> int:
    return data.split(b"\n")[0].split(b",").index(name)


CSV: dict[str, Damage] = {
    **ANY,
    "Latin-1": becomes(lambda data: _cell(data, 2, _column(data, b"case"), b"caf\xe9")),
    "semicolons": becomes(lambda data: data.replace(b".", b"'").replace(b",", b";")),
    "tabulators": becomes(lambda data: data.replace(b",", b"\t")),
    "foreign columns": becomes(lambda data: b"a,b\n1,2\n"),
    "without a header": becomes(lambda data: data.split(b"\n", 1)[1]),
    "a column twice": becomes(lambda data: _cell(data, 0, 1, b"case")),
    "a row too long": becomes(lambda data: _cell(data, 3, 0, b"x,y")),
    "a row too short": becomes(lambda data: b"\n".join([*data.split(b"\n")[:3], b"x,y", b""])),
    "a zero byte": becomes(lambda data: _cell(data, 2, 0, b"a\0b")),
    "a quote that never ends": becomes(lambda data: _cell(data, 2, 0, b'"a')),
    "JSON": becomes(lambda data: b'{"a": 1}'),
}
CSV_NUMBERS: dict[str, Damage] = {
    "text for a number": becomes(lambda data: _cell(data, 2, _column(data, b"level"), b"high")),
    "a comma in a number": becomes(lambda data: _cell(data, 2, _column(data, b"level"), b'"0,1"')),
}
CSV_HARMLESS: dict[str, Damage] = {
    "BOM": becomes(lambda data: b"\xef\xbb\xbf" + data),
    "CRLF": becomes(lambda data: data.replace(b"\n", b"\r\n")),
    "CR": becomes(lambda data: data.replace(b"\n", b"\r")),
    "empty lines": becomes(lambda data: b"\n" + data + b"\n\n"),
    "an unknown column": becomes(lambda data: b"\n".join(b"zzz," + line for line in data.splitlines()) + b"\n"),
}


def _huge_png(data: bytes) -> bytes:
    """A picture of 30 000 x 30 000 pixels in a hundred bytes or so."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def _saved(size: tuple[int, int], mode: str, kind: str) -> Damage:
    return lambda path: Image.new(mode, size).save(path, format=kind)


def _elsewhere(path: Path) -> None:
    outside = next(folder for folder in path.parents if folder.name == "pictures").parents[1] / "outside.png"
    shutil.copy(path, outside)
    path.unlink()
    path.symlink_to(outside)


PICTURE: dict[str, Damage] = {
    "empty": ANY["empty"],
    "noise": ANY["noise"],
    "zeros": ANY["zeros"],
    "cut": becomes(lambda data: data[: len(data) // 2]),
    "one byte other": becomes(lambda data: data[:60] + bytes([data[60] ^ 255]) + data[61:]),
    "huge": becomes(_huge_png),
    "a JPEG": _saved((96, 96), "L", "JPEG"),
    "another size": _saved((50, 40), "L", "PNG"),
    "another size in colours": _saved((3, 300), "RGBA", "PNG"),
    "a text": becomes(lambda data: b"hello"),
    "a folder": a_folder,
    "a pipe": a_pipe,
    "a link out": _elsewhere,
}
