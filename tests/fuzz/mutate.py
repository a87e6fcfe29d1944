"""Change bytes and texts as damage, carelessness or malice does; all by one random generator."""

import random

TOKENS = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b'"',
    b'""',
    b"\\",
    b"{",
    b"[" * 500,
    b"}",
    b"\r",
    b"\n",
    b"\r\n",
    b"\t",
    b",",
    b"null",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 40,
    b"18446744073709551616",
    b"\\ud800",
    b"__gpte_row",
    b"../",
    b"PAR1",
    b"\x1f\x8b",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
)
NAMES = (
    "",
    " ",
    ".",
    "..",
    "../x",
    "/etc/x",
    "a/b",
    "a\\b",
    "a\0b",
    "id",
    "ID",
    "text",
    "embedding",
    "score",
    "__gpte_row",
    "__gpte_reference",
    "__gpte_",
    "__GPTE_row",
    "\u200b__gpte_row",
    "k=v",
    "*",
    "[a]",
    "?",
    "\x1b[31m",
    "é",
    "e\u0301",
    "\U0001f600",
    "x" * 300,
    "_x",
    ".x",
    "COM1",
    "\ufeffid",
)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change bytes in one to four places, or in none."""
    changed = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        length = min(rng.choice((1, 2, 8, 64, 1024)), len(changed) - at)
        kind = rng.randrange(6)
        if kind == 0:
            for i in range(at, at + length):
                changed[i] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[at : at + length]
        elif kind == 2:
            changed[at:at] = rng.choice(TOKENS)
        elif kind == 3:
            changed[at : at + length] = rng.choice(TOKENS)
        elif kind == 4:
            other = rng.randrange(len(changed) + 1)
            changed[at:at] = changed[other : other + length]
        else:
            del changed[at:]
    return bytes(changed)


def name(rng: random.Random) -> str:
    """Make a name of a column, file or object."""
    parts = (rng.choice(NAMES), chr(rng.randrange(32, 0x250)), rng.choice(NAMES))
    return "".join(parts[: rng.randrange(1, 4)])
