"""Tell the program that runs a job on this machine how far its workers are.

    workers: threads or processes --> append to a file per figure --> the program adds up

Beam's in-process runners report no metrics before the end. Where no program watches, nothing is
written.
"""

import contextlib
import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path

FOLDER = "BEAM_GPTE_METER"  # the variable that names the folder of the files
ROWS, BYTES, TEXTS = "rows", "bytes", "texts"  # read, and embedded
COMMITS = "commits"

_NUMBER = struct.Struct("<q")


def report(figure: str, amount: int) -> None:
    """Add to a figure."""
    if amount:
        _append(figure, _NUMBER.pack(amount))


def report_commit(files: Sequence[tuple[str, int]]) -> None:
    """Add a commit: the path of each file, and how many rows it has."""
    if files:
        _append(COMMITS, json.dumps(files).encode() + b"\n")


def amount(folder: str, figure: str) -> int:
    """Return the sum of a figure."""
    data = _content(folder, figure)
    whole = data[: len(data) // _NUMBER.size * _NUMBER.size]
    return sum(one for (one,) in _NUMBER.iter_unpack(whole))


def commits(folder: str) -> list[list[tuple[str, int]]]:
    """List the commits, the first one first."""
    *whole, _ = _content(folder, COMMITS).split(b"\n")
    return [json.loads(line) for line in whole]


def _append(figure: str, data: bytes) -> None:
    folder = os.environ.get(FOLDER)
    if folder:
        with contextlib.suppress(OSError):  # a program that has ended needs none
            with open(f"{folder}/{figure}", "ab", buffering=0) as file:
                file.write(data)  # at once, whoever else appends


def _content(folder: str, figure: str) -> bytes:
    path = Path(folder, figure)
    return path.read_bytes() if path.exists() else b""
