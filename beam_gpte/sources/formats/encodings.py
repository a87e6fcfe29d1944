"""Read files of any encoding as UTF-8; what is invalid in it costs its row, as in UTF-8 itself.

bytes --> text, each invalid byte as a mark --> UTF-8, in which marks are invalid --> a reader
"""

import codecs
import dataclasses
import difflib
import encodings.aliases
import io
import re
from typing import Any, BinaryIO

from beam_gpte.core.errors import InputError
from beam_gpte.sources.formats.rows import INVALID, RowError

UTF_8 = "utf-8"
_READ_BYTES = 1 << 20  # at a time
_UTF_8_NAMES = (UTF_8, "utf-8-sig")  # a byte order mark is skipped in any case
# of names and programs, not of files; an escape could make a newline, which would end a row
_NOT_OF_FILES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined")
_UNITS = ("utf-16", "utf-32")  # have no bytes to go on from but the next unit's
_MARKING = "beam_gpte.mark"  # the name of an error handler
_MARK = 0xDC00  # U+DC00 to U+DCFF are halves of characters, which no decoder makes
_MARK_BYTES = re.compile(r"\\xed\\x(b[0-3])\\x([89ab][0-9a-f])")  # as `readable` writes one
_INVALID = re.compile("[\udc80-\udcff]")  # bytes that are no UTF-8, as Python reads them
_FEW = 0.1  # of the lines; so many are rejects, whose reason names the repair
_ORDER_MARKS = {  # the first bytes of a file, and its encoding; that of UTF-32 begins as UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def is_utf8_name(encoding: str) -> bool:
    """Check whether an encoding is UTF-8, under any of its names."""
    return codecs.lookup(encoding).name in _UTF_8_NAMES


def check_encoding(encoding: Any) -> None:
    """Check that Python knows an encoding of files.

    Raises:
      InputError: it does not; names the nearest that it knows.
    """
    if not _is_known(encoding):
        names = {*encodings.aliases.aliases, *encodings.aliases.aliases.values()}
        known = sorted(name.replace("_", "-") for name in names if _is_known(name))
        near = difflib.get_close_matches(str(encoding), known, 1)
        meant = f"did you mean {near[0]}?" if near else "use latin-1, cp1252, utf-16 or another"
        raise InputError(f"encoding {encoding!r} is unknown; {meant}")


def _is_known(encoding: Any) -> bool:
    try:
        found: Any = codecs.lookup(encoding)
    except (LookupError, TypeError, ValueError):
        return False
    return found._is_text_encoding and found.name not in _NOT_OF_FILES


class TranscodedFile(io.RawIOBase):
    """Convert a file to UTF-8; bytes that are invalid in its encoding become invalid UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)(_MARKING)
        self._unread = b""
        self._at_end = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read UTF-8; 0 bytes at the end."""
        while not self._unread and not self._at_end:
            data = self._file.read(_READ_BYTES)
            self._at_end = not data
            self._unread = self._decoded(data).encode(UTF_8, "surrogatepass")
        count = min(len(buffer), len(self._unread))
        buffer[:count] = self._unread[:count]
        self._unread = self._unread[count:]
        return count

    def _decoded(self, data: bytes) -> str:
        try:
            return self._decoder.decode(data, self._at_end)
        except UnicodeError as error:  # of UTF-16 and UTF-32; invalid bytes get marks
            raise InputError(f"{error}; name utf-16-le, or another with the order") from error


def _marked(error: UnicodeError) -> tuple[str, int]:
    """Put marks in place of invalid bytes; a newline is none of them, whatever stands before it."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    start, data = error.start, error.object
    if not error.encoding.startswith(_UNITS):
        return chr(_MARK + data[start]), start + 1
    return "".join(chr(_MARK + byte) for byte in data[start : error.end]), error.end


codecs.register_error(_MARKING, _marked)


def explained(error: RowError, encoding: str) -> RowError:
    """Say of a row of a file of this encoding how to read it, if its bytes are invalid."""
    is_invalid = error.reason.startswith(INVALID)
    if is_utf8_name(encoding):
        if not is_invalid:
            return error
        separator = ";" if ":" in error.reason else ":"
        repair = f"{separator} name the encoding of the file, such as latin-1"
        return dataclasses.replace(error, reason=error.reason + repair)
    repair = f"invalid {encoding}: name another encoding, or fix the row"
    content = _MARK_BYTES.sub(_original_byte, error.content)
    return dataclasses.replace(
        error, reason=repair if is_invalid else error.reason, content=content
    )


def _original_byte(mark: re.Match[str]) -> str:
    high, low = int(mark[1], 16), int(mark[2], 16)
    return f"\\x{(high & 0x3) << 6 | low & 0x3F:02x}"


@dataclasses.dataclass(frozen=True)
class OtherEncoding:
    """Describe the beginning of a file that is not UTF-8.

    Attributes:
      offset: of the first byte that is not.
      byte: its value.
      likely: an encoding that it may have.
    """

    offset: int
    byte: int
    likely: str


def other_encoding(data: bytes, is_whole: bool) -> OtherEncoding | None:
    """Look for another encoding in the beginning of a file.

    Args:
      data: the first bytes.
      is_whole: the file has no others; else a character may be cut off at the end.

    Returns:
      None if it is UTF-8, which may have rows that are not: most characters beyond ASCII are valid,
      or nine of ten lines are.
    """
    decoder = codecs.getincrementaldecoder(UTF_8)("surrogateescape")
    text = decoder.decode(data, is_whole)
    beyond = re.sub(r"[\0-\x7f]+", "", text)
    invalid = _INVALID.findall(beyond)
    for mark, encoding in _ORDER_MARKS.items():
        if data.startswith(mark):
            return OtherEncoding(0, data[0], encoding)
    if 2 * len(invalid) <= len(beyond):
        return None
    lines = text.splitlines()
    if sum(_INVALID.search(line) is not None for line in lines) < _FEW * len(lines):
        return None
    offset = len(text[: text.index(invalid[0])].encode(UTF_8))
    controls = any(0x80 <= byte <= 0x9F for byte in data)  # which Latin-1 has no use for
    return OtherEncoding(offset, data[offset], "cp1252" if controls else "latin-1")
