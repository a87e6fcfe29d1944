"""Write requests for vectors, and read the answers, in the forms of the servers that are known.

    texts --> body --> server --> read --> float32 (texts, dim), tokens

An answer of another shape than was asked for is damaged: nothing of it is used.
"""

import binascii
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from beam_gpte.core.served.asker import Made
from beam_gpte.core.served.client import Answer
from beam_gpte.core.served.endpoint import OPENAI, TEI, EndpointConfig
from beam_gpte.core.served.failures import PassingError

BASE64 = "base64"


class EmbeddingApi(NamedTuple):
    """Define what servers of one kind take and give.

    Attributes:
      root: path of the endpoint.
      last: how it ends, also below another root.
      body: what to send for some texts; `encoded` asks for vectors in base64.
      read: vectors as the server lists them, and tokens.
    """

    root: str
    last: str
    body: Callable[[EndpointConfig, list[str], bool], dict[str, Any]]
    read: Callable[[Any, Answer, int], tuple[list[Any], int]]


def _openai_body(config: EndpointConfig, texts: list[str], encoded: bool) -> dict[str, Any]:
    body: dict[str, Any] = {**config.parameters, "model": config.model, "input": texts}
    if config.dimensions is not None:
        body["dimensions"] = config.dimensions
    if encoded:
        body["encoding_format"] = BASE64
    return body


def _read_openai(content: Any, answer: Answer, count: int) -> tuple[list[Any], int]:
    items = content["data"]
    if len(items) != count:
        raise PassingError(f"{len(items)} vectors for {count} texts", is_suspect=True)
    places = [item.get("index", i) for i, item in enumerate(items)]
    if sorted(places) != list(range(count)):
        raise PassingError(f"the indexes of {count} vectors are {places[:10]}", is_suspect=True)
    vectors: list[Any] = [None] * count
    for place, item in zip(places, items, strict=True):
        vectors[place] = item["embedding"]
    usage = content.get("usage") or {}
    return vectors, int(usage.get("total_tokens") or usage.get("prompt_tokens") or 0)


def _tei_body(config: EndpointConfig, texts: list[str], encoded: bool) -> dict[str, Any]:
    body = {**config.parameters, "inputs": texts, "normalize": config.normalize}
    return body if config.dimensions is None else {**body, "dimensions": config.dimensions}


def _read_tei(content: Any, answer: Answer, count: int) -> tuple[list[Any], int]:
    if not isinstance(content, list):
        raise TypeError("not a list of vectors")
    if len(content) != count:
        raise PassingError(f"{len(content)} vectors for {count} texts", is_suspect=True)
    return content, header_tokens(answer)


API: dict[str, EmbeddingApi] = {
    OPENAI: EmbeddingApi("/v1/embeddings", "/embeddings", _openai_body, _read_openai),
    TEI: EmbeddingApi("/embed", "/embed", _tei_body, _read_tei),
}


def header_tokens(answer: Answer) -> int:
    """Return the tokens that a server of `tei` has used; 0 if it does not say."""
    found = answer.headers.get("x-compute-tokens", "")
    return int(found) if found.isdigit() else 0


def read_json(answer: Answer) -> Any:
    """Parse an answer.

    Raises:
      PassingError: it is not JSON, as where it is cut.
    """
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise PassingError(f"the answer is not JSON: {error}", is_suspect=True) from error


def read_vectors(api: EmbeddingApi, answer: Answer, count: int, dim: int | None) -> Made:
    """Read the vectors of `count` texts, in their order.

    Args:
      api: of the server.
      answer: of the server.
      count: how many texts were sent.
      dim: their dimensions; None if they are not known yet.

    Raises:
      PassingError: it is not an answer to the request.
    """
    content = read_json(answer)
    try:
        listed, tokens = api.read(content, answer, count)
        if (encoded := _all_encoded(listed, dim)) is not None:
            return Made(encoded, tokens)
        rows = [_numbers(one) for one in listed]
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        shown = f"{type(error).__name__}: {error}"
        raise PassingError(f"the answer has another form: {shown}", is_suspect=True) from error
    sizes = {len(row) for row in rows if row is not None}
    expected = dim or max(sizes, default=0)
    if not expected or sizes - {expected}:
        found = " and ".join(map(str, sorted(sizes))) or "no"
        raise PassingError(
            f"vectors of {found} dimensions{f', and of {dim} before' if dim else ''}",
            is_suspect=True,
        )
    nothing = np.full(expected, np.nan)
    with np.errstate(over="ignore"):  # overflow becomes infinity, which is found
        vectors = np.stack([nothing if row is None else row for row in rows]).astype(np.float32)
    return Made(vectors, tokens)


def _all_encoded(listed: list[Any], dim: int | None) -> np.ndarray | None:
    """Read the vectors of an answer at once, float32 (n, dim), where all are in base64.

    Returns:
      None if one is not, or has another length: they are read one by one, and the fault is named.
    """
    if dim is None or not all(type(one) is str for one in listed):
        return None
    parts = list(map(_bytes, listed))
    if any(len(part) != 4 * dim for part in parts):
        return None
    return (
        np.frombuffer(bytearray().join(parts), "<f4")
        .reshape(-1, dim)
        .astype(np.float32, copy=False)
    )


def _bytes(value: str) -> bytes:
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error


def _numbers(value: Any) -> np.ndarray | None:
    """Read a vector: a list of numbers, or float32 in base64; None if there is none."""
    if value is None:
        return None
    if isinstance(value, str):
        return np.frombuffer(_bytes(value), "<f4")
    row = np.array(value, np.float64)  # of null, NaN
    if row.ndim != 1:
        raise ValueError(f"a vector has {row.ndim} axes")
    return row
