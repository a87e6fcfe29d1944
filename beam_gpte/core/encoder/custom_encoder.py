"""Adapt a user's encoder to the interface of `TextEncoder`."""

import logging
import time

import numpy as np

from beam_gpte.core import canaries
from beam_gpte.core.encoder.text_encoder import Encoder, Encoding, KnownVectors, fail_not_finite
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.core.visible_text import EMPTY, check_texts, is_visible

PART_SECONDS = 0.1  # of one call, about, where its vectors are kept
FIRST_PART, LARGEST_PART = 16, 4096  # texts

_log = logging.getLogger(__name__)


class CustomEncoder:
    """Wrap any object with `encode(list[str]) -> ndarray`, adding metadata and counts.

    Its tokens are unknown and count as 0. Its fingerprint is the object's attribute
    ``fingerprint``, or else the name of its class.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._part = FIRST_PART
        name = type(encoder).__qualname__
        probe, seen = self._try_canaries()
        self.metadata = VectorMetadata(
            model=name,
            fingerprint=str(getattr(encoder, "fingerprint", f"unknown {name}")),
            pooling="",
            prompt="",
            dim=probe.shape[1],
            normalized=bool((abs(np.linalg.norm(probe, axis=1) - 1) < 1e-5).all()),
            canaries=seen,
        )

    def encode_with_counts(self, texts: list[str], known: KnownVectors | None = None) -> Encoding:
        """Embed each distinct text once, one vector per text; see `Encoding`.

        Args:
          texts: to embed.
          known: vectors that need not be computed; gets those that are, after each of several calls
            of the encoder.

        Raises:
          InputError: `texts` is not a list of strings, or the encoder returns another shape.
        """
        check_texts(texts, "encode")
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        rows = np.array([distinct[text] for text in texts], dtype=np.int64)
        vectors, there = self._encode_new(list(distinct), known)
        unknown = np.zeros(len(rows), dtype=np.int64)
        vectors, text_of = vectors[rows], np.arange(len(texts))
        failed = {i: EMPTY for i, text in enumerate(texts) if not is_visible(text)}
        return Encoding(
            vectors=vectors,
            text=text_of,
            chars=np.array([[0, len(text)] for text in texts], np.int64).reshape(-1, 2),
            tokens=unknown,
            dropped=unknown,
            distinct=len(distinct),
            needed=0,
            computed=0,
            retries=0,
            failed=failed | fail_not_finite(vectors, text_of, failed),
            found=there[rows],
        )

    def _encode_new(
        self, texts: list[str], known: KnownVectors | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors of distinct texts, and which of them were known: bool (n,)."""
        vectors = np.empty((len(texts), self.metadata.dim), np.float32)
        if known is None or not texts:
            vectors = self._encode_checked(texts) if texts else vectors
            return vectors, np.zeros(len(texts), bool)
        keys = [text.encode("utf-8", "surrogatepass") for text in texts]
        found = known.find(keys)
        there = np.array([key in found for key in keys], bool)
        for i in np.flatnonzero(there):
            vectors[i] = found[keys[i]][0]
        new = np.flatnonzero(~there)
        while len(new):
            part, new = new[: self._part], new[self._part :]
            began = time.monotonic()
            vectors[part] = self._encode_checked([texts[i] for i in part])
            self._fit_part(time.monotonic() - began)
            for i in part:
                known.add(keys[i], vectors[i : i + 1])
        return vectors, there

    def _fit_part(self, seconds: float) -> None:
        """Let the next call take about `PART_SECONDS`; of races between threads none matters."""
        if seconds < PART_SECONDS / 2:
            self._part = min(LARGEST_PART, 2 * self._part)
        elif seconds > 2 * PART_SECONDS:
            self._part = max(1, self._part // 2)

    def _try_canaries(self) -> tuple[np.ndarray, str]:
        """Embed the fixed texts of `core.canaries`, or a plain word where it does not take them."""
        try:
            vectors = self._encode(canaries.TEXTS)
        except InputError:
            raise
        except Exception as error:  # of any kind: that of a word is raised
            _log.info("without canaries: %r", error)
            return self._encode(["dimension"]), ""
        return vectors, canaries.sketch(vectors, "unknown")

    def _encode_checked(self, texts: list[str]) -> np.ndarray:
        vectors = self._encode(texts)
        if vectors.shape[1] != self.metadata.dim:
            raise InputError(
                f"{self.metadata.model}.encode returned {vectors.shape[1]} dimensions, and "
                f"{self.metadata.dim} before; return vectors of one length"
            )
        return vectors

    def _encode(self, texts: list[str]) -> np.ndarray:
        name = type(self._encoder).__qualname__
        given = self._encoder.encode(list(texts))
        kind = getattr(given, "dtype", None)
        if isinstance(given, np.ma.MaskedArray) or getattr(kind, "kind", "f") not in "fiubOV":
            raise InputError(
                f"{name}.encode returned {type(given).__qualname__} of {kind}; "
                "return an array of floats"
            )
        with np.errstate(over="ignore"):  # overflow becomes infinity, which is found
            vectors = np.ascontiguousarray(given, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise InputError(
                f"{name}.encode returned shape {vectors.shape} "
                f"for {len(texts)} texts; return ({len(texts)}, dim)"
            )
        return vectors
