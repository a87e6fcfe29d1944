"""Adapt a user's encoder to the interface of `TextEncoder`."""

import numpy as np

from beam_gpte.core.encoder.text_encoder import Encoder, Encoding
from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata


class CustomEncoder:
    """Wrap any object with `encode(list[str]) -> ndarray`, adding metadata and counts.

    Its tokens are unknown and count as 0. Its fingerprint is the object's attribute
    ``fingerprint``, or else the name of its class.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        name = type(encoder).__qualname__
        probe = self._encode(["dimension"])
        self.metadata = VectorMetadata(
            model=name,
            fingerprint=str(getattr(encoder, "fingerprint", f"unknown {name}")),
            pooling="",
            prompt="",
            dim=probe.shape[1],
            normalized=bool(abs(np.linalg.norm(probe) - 1) < 1e-5),
        )

    def encode_with_counts(self, texts: list[str]) -> Encoding:
        """Embed each distinct text once, one vector per text; see `Encoding`."""
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        rows = np.array([distinct[text] for text in texts], dtype=np.int64)
        if distinct:
            vectors = self._encode(list(distinct))
        else:
            vectors = np.empty((0, self.metadata.dim), np.float32)
        unknown = np.zeros(len(rows), dtype=np.int64)
        return Encoding(
            vectors=vectors[rows],
            text=np.arange(len(texts)),
            chars=np.array([[0, len(text)] for text in texts], np.int64).reshape(-1, 2),
            tokens=unknown,
            dropped=unknown,
            distinct=len(distinct),
            needed=0,
            computed=0,
            retries=0,
            failed={},
        )

    def _encode(self, texts: list[str]) -> np.ndarray:
        vectors = np.ascontiguousarray(self._encoder.encode(texts), dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise InputError(
                f"{type(self._encoder).__qualname__}.encode returned shape {vectors.shape} "
                f"for {len(texts)} texts; return ({len(texts)}, dim)"
            )
        return vectors
