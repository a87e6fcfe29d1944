"""Read the images that a column holds or names: bytes, paths, or URIs of any Beam file system.

A column of Hugging Face's datasets, of ``{bytes, path}``, is read too. What a row names and what
is not there costs that row; a store that does not answer fails the bundle, which engines try again.
"""

import collections
import errno
import functools
import os
import stat
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.errors import InputError, PassingInputError, shown
from beam_gpte.core.images.decode import ImageError
from beam_gpte.elements.plain_types import is_string
from beam_gpte.files.cloud import check_bucket
from beam_gpte.files.folders import is_remote
from beam_gpte.files.plain_files import open_plain

# Bytes of a file above which it is not read: photos have up to 50 MB.
MAX_BYTES = 1 << 28
_CHUNK = 1 << 20  # bytes of one read

# Files that are asked of a store at once, and read before they are decoded.
READERS, READ_AHEAD = 8, 16

_LOCAL = "file://"
_NAME_ERRORS = (errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)  # no file can have that name
_PARTS = {"bytes", "path"}  # the fields of a datasets' image


def image_defects(column: pa.Array, name: str) -> pa.Array:
    """Return why each value cannot be an image: a string array, null where it can."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(kind):
        return pa.array([f"{name} is null"] * len(column), pa.string())
    if not _is_image_type(kind):
        wrong = f"{name} is not an image: {kind}; give bytes, a path or a URI"
        return pc.if_else(pc.is_null(column), f"{name} is null", wrong)
    missing = pc.is_null(column)
    if pa.types.is_struct(kind):
        parts = [column.field(part) for part in sorted(_PARTS & set(_names(kind)))]
        missing = pc.or_(missing, functools.reduce(pc.and_, map(pc.is_null, parts)))
    return pc.if_else(missing, f"{name} is null", pa.scalar(None, pa.string()))


def _is_image_type(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        named = [kind.field(name) for name in _PARTS & set(_names(kind))]
        return bool(named) and all(_is_image_type(field.type) for field in named)
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return is_bytes or is_string(kind) or pa.types.is_fixed_size_binary(kind)


def _names(kind: pa.StructType) -> list[str]:
    return [kind.field(i).name for i in range(kind.num_fields)]


def read_images(column: pa.Array) -> Iterator[bytes | ImageError]:
    """Yield the content of each image of a column, or why there is none, in order.

    Images of a store are read ahead, `READERS` at once.

    Raises:
      PassingInputError: a store does not answer.
    """
    values = map(_value, column)
    if not any(isinstance(one, str) and is_remote(one) for one in map(_value, column[:1])):
        yield from map(_content, values)
        return
    with ThreadPoolExecutor(READERS) as pool:
        reading: collections.deque[Future[bytes | ImageError]] = collections.deque()
        for value in values:
            reading.append(pool.submit(_content, value))
            if len(reading) > READ_AHEAD:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()


def stored_bytes(column: pa.Array) -> Iterator[bytes | None]:
    """Yield the bytes of each image of a column, None where it has only a path, or nothing."""
    for value in map(_value, column):
        yield value if isinstance(value, bytes) else None


def _value(scalar: Any) -> bytes | str | None:
    """Return the bytes of an image, or where it is."""
    value = scalar.as_py()
    if isinstance(value, dict):
        content = value.get("bytes")
        value = value.get("path") if content is None else content
    return value


def _content(value: bytes | str | None) -> bytes | ImageError:
    if isinstance(value, bytes):
        return value
    if not value:
        return ImageError("is empty")
    try:
        return _read(value)
    except ImageError as error:
        return error


def _read(path: str) -> bytes:
    """Read a file, however it is named.

    Raises:
      ImageError: there is none, or it cannot be read.
    """
    path = path.removeprefix(_LOCAL)
    try:
        if is_remote(path):
            check_bucket(path)
            FileSystems.get_filesystem(path)
        else:
            _check_local(path)
        with open_plain(path) as file:
            content = _all_of(file)
    except (ImageError, PassingInputError):
        raise
    except FileNotFoundError as error:
        raise ImageError(f"is not there: no file {shown(path)}; correct the path") from error
    except PermissionError as error:
        raise ImageError(f"may not be read: {shown(path)}; let the worker read it") from error
    except OSError as error:
        if error.errno not in _NAME_ERRORS:
            raise  # of a disk or a store, which may be gone at the next try
        raise ImageError(
            f"cannot be read: {shown(path)} ({error.strerror}); correct the path"
        ) from error
    except InputError as error:  # of a bucket
        raise ImageError(f"cannot be read: {error}") from error
    except ValueError as error:  # of a scheme that no file system has, or a path with a NUL
        raise ImageError(
            f"cannot be read: no file system for {shown(path)}; use a path, or a URI such as "
            "gs://bucket/image.jpg"
        ) from error
    if len(content) > MAX_BYTES:
        raise ImageError(f"is too large: {shown(path)} has over {MAX_BYTES:,} bytes; leave it out")
    return content


def _all_of(file: BinaryIO) -> bytes:
    """Read a file to its end, or a bit beyond `MAX_BYTES`."""
    parts, size = [], 0
    while size <= MAX_BYTES and (part := file.read(_CHUNK)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _check_local(path: str) -> None:
    """Refuse what is not a file: to read a FIFO or a device may never end.

    Raises:
      ImageError: it is a folder or a device.
      FileNotFoundError: there is nothing.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "not a file"
        raise ImageError(f"is {what}: {shown(path)}; name a file")
