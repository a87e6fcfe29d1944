"""Encode texts into vectors of their tokens: `TokenEncoder.encode(texts, route)`.

texts --> prefix, tokens, mask tokens --> batches by length --> backbone --> projection --> the
                                                                             vectors that count
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from beam_gpte.core.encoder.backbone import Backbone, start_torch
from beam_gpte.core.encoder.batch_runner import BatchRunner
from beam_gpte.core.encoder.config import EncoderConfig, hash_settings
from beam_gpte.core.encoder.inputs import Piece
from beam_gpte.core.encoder.model_folder import find_model, model_name
from beam_gpte.core.encoder.pretrained import named_failure, position_limit
from beam_gpte.core.encoder.tokenizer import Tokenizer
from beam_gpte.core.errors import InputError
from beam_gpte.core.loading import one_at_a_time
from beam_gpte.core.multi_vectors.max_sim import TokenVectors
from beam_gpte.core.multi_vectors.token_folder import (
    DOCUMENT,
    QUERY,
    ROUTES,
    TokenFolder,
    read_token_folder,
)
from beam_gpte.core.multi_vectors.token_head import load_token_head
from beam_gpte.core.multi_vectors.token_inputs import TokenInputs, TokenPiece
from beam_gpte.core.multi_vectors.token_metadata import TokenMetadata
from beam_gpte.core.multi_vectors.token_pooling import TokenPooling
from beam_gpte.core.visible_text import EMPTY, check_texts, is_visible

if TYPE_CHECKING:
    import torch

# The settings of a configuration that a model of token vectors supports.
SUPPORTED = (
    "model",
    "revision",
    "max_tokens",
    "precision",
    "token_budget",
    "device",
    "trust_remote_code",
)
_UNLIMITED = 1 << 30  # tokens
NO_TOKEN = "the model keeps no token of the text"
NOT_FINITE = "the model gave a vector that is not finite"


@dataclasses.dataclass(frozen=True)
class TokenEncoding:
    """Hold the token vectors of some texts, and count the work.

    Attributes:
      vectors: of each text, float32; none of one that failed.
      tokens: int64 (n,), tokens of each text that were run, all kinds included.
      dropped: int64 (n,), tokens cut off each text.
      distinct: number of distinct inputs, each of which was run once.
      needed: tokens of these inputs.
      computed: tokens that the backbone ran over, padding included.
      retries: how often a batch was halved because it did not fit the memory.
      failed: why a text has no vectors, by position.
    """

    vectors: TokenVectors
    tokens: np.ndarray
    dropped: np.ndarray
    distinct: int
    needed: int
    computed: int
    retries: int
    failed: dict[int, str]


class TokenEncoder:
    """Encode texts with a loaded model of token vectors; safe to share between threads.

    Vectors equal those of sentence-transformers' `MultiVectorEncoder`, computed without padding
    where the model allows it. A text's neighbors change a vector by less than 1e-5 in fp32.

    Attributes:
      config: of the model, as it was loaded.
      mean: whether the model's scores are divided by the vectors of the query.
    """

    def __init__(
        self,
        config: EncoderConfig,
        folder: TokenFolder,
        inputs: dict[str, TokenInputs],
        runner: "TokenRunner",
    ) -> None:
        self.config = config
        self.mean = folder.mean
        self._folder = folder
        self._inputs = inputs
        self._runner = runner
        self._metadata = self._describe(folder)

    def _describe(self, folder: TokenFolder) -> TokenMetadata:
        """Measure the output on a probe and hash everything that can change a vector."""
        with named_failure(folder.model.root / "modules.json", "names parts that do not fit"):
            pieces: list[Piece] = list(self._inputs[QUERY].prepare(["dimension"]))
            (probe,) = self._runner.run(pieces).vectors
        if probe is None:
            raise InputError(f"model {self.config.model!r} does not fit the memory")
        resolved: dict[str, Any] = {
            "files": folder.model.hash(self.config),
            "tokens": folder.settings,
            "limits": {route: self._inputs[route].max_tokens for route in ROUTES},
        }
        backbone = self._runner.backbone
        if backbone.fp32_layers:
            resolved["fp32_layers"] = backbone.fp32_layers
        return TokenMetadata(
            model=model_name(self.config),
            fingerprint=hash_settings(self.config, resolved),
            dim=probe.shape[1],
            route=DOCUMENT,
            normalized=folder.normalize,
            mean=folder.mean,
            engine=f"{backbone.precision} {backbone.attention}",
        )

    @classmethod
    @one_at_a_time
    def load(
        cls, config: EncoderConfig | str, root: Path | None = None, adapter: Path | None = None
    ) -> "TokenEncoder":
        """Load a model from a hub name or a folder.

        Weights are safetensors only, and none of the model's code is run unless trusted.

        Args:
          config: the model; a string means a model with all defaults.
          root: the local folder that holds the model where `config.model` names a remote place.
          adapter: none; for the signature of all loaders.

        Raises:
          InputError: the model does not exist, makes no token vectors, has no safetensors, is
            incomplete or damaged, has unsupported modules, or the configuration sets what is for
            one vector per text.
        """
        config = start_torch(config)
        check_token_config(config)
        folder = read_token_folder(root or find_model(config))
        tokenizer = Tokenizer.of(folder.model, config)
        for marker in folder.markers:
            _keep_marker_whole(tokenizer, marker)
        inputs = {
            route: TokenInputs(tokenizer, folder, route, _limit(folder, route, config))
            for route in ROUTES
        }
        _check_expansion(folder, inputs[QUERY].max_tokens, config)
        samples = tokenizer.samples(config.precision)
        head = load_token_head(folder)
        backbone = Backbone.load(folder.model, config, tokenizer.pad_id, samples)
        return cls(config, folder, inputs, TokenRunner(backbone, head, (), config))

    @property
    def dim(self) -> int:
        """Return the dimensions of a vector."""
        return self._metadata.dim

    @property
    def fingerprint(self) -> str:
        """Return a hash of everything that changes a vector of any route."""
        return self._metadata.fingerprint

    @property
    def unpadded(self) -> bool:
        """Return whether texts run end to end, without padding; see `core.encoder.unpadded`."""
        return self._runner.backbone.unpadded

    def metadata(self, route: str, pooling: TokenPooling | None = None) -> TokenMetadata:
        """Describe the vectors of a route."""
        chosen = self.pooling(route, pooling)
        return dataclasses.replace(
            self._metadata,
            route=route,
            pool_factor=1.0 if chosen is None else float(chosen.factor),
            protected_tokens=0 if chosen is None else chosen.protected,
        )

    def pooling(self, route: str, pooling: TokenPooling | None = None) -> TokenPooling | None:
        """Return the pooling of a route: what is given for documents, else the model's own."""
        return pooling if pooling is not None else self._folder.pooling.get(route)

    def encode(
        self, texts: list[str], route: str = DOCUMENT, pooling: TokenPooling | None = None
    ) -> list[np.ndarray]:
        """Embed the tokens of `texts`.

        Args:
          texts: to embed.
          route: ``query`` or ``document``.
          pooling: of the vectors of each text, in place of the model's own.

        Returns:
          Of each text float32 (tokens, dim).

        Raises:
          InputError: `texts` is not a list of strings, or a text cannot be embedded; the message
            names its position.
        """
        found = self.encode_with_counts(texts, route, pooling)
        for position, reason in found.failed.items():
            raise InputError(f"text {position}: {reason}")
        return [found.vectors[i] for i in range(len(texts))]

    def prepare(self, texts: list[str], route: str) -> list[TokenPiece]:
        """Make the inputs of the model, which say how many vectors each text gets.

        Raises:
          InputError: `texts` is not a list of strings, or there is no such route.
        """
        check_texts(texts, "encode")
        if route not in ROUTES:
            raise InputError(f"route {route!r}: choose {' or '.join(ROUTES)}")
        return self._inputs[route].prepare(texts)

    def encode_with_counts(
        self, texts: list[str], route: str = DOCUMENT, pooling: TokenPooling | None = None
    ) -> TokenEncoding:
        """Embed texts, each distinct input once, and count the work; see `TokenEncoding`.

        Raises:
          InputError: `texts` is not a list of strings, or there is no such route.
        """
        return self.run(texts, self.prepare(texts, route), self.pooling(route, pooling))

    def parts(self, pieces: list[TokenPiece], max_bytes: int) -> Iterator[slice]:
        """Cut texts, in order, into runs whose vectors take at most `max_bytes`, or of one text."""
        ends = np.cumsum([len(piece.spans) * self.dim * 4 for piece in pieces])
        start = 0
        while start < len(pieces):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + max_bytes, side="right")))
            yield slice(start, stop)
            start = stop

    def run(
        self, texts: list[str], pieces: list[TokenPiece], pooling: TokenPooling | None = None
    ) -> TokenEncoding:
        """Run the inputs that `prepare` made of texts."""
        failed = {i: EMPTY for i, text in enumerate(texts) if not is_visible(text)}
        for i, piece in enumerate(pieces):
            if not len(piece.spans):
                failed.setdefault(i, NO_TOKEN)
        inputs: dict[bytes, Piece] = {
            piece.key: piece for i, piece in enumerate(pieces) if i not in failed
        }
        run = self._runner.run(list(inputs.values()))
        vectors_of = dict(zip(inputs, run.vectors, strict=True))
        for key, vectors in vectors_of.items():
            if vectors is not None and pooling is not None and np.isfinite(vectors).all():
                vectors_of[key] = pooling.pool(vectors)
        nothing = np.empty((0, self.dim), np.float32)
        parts = []
        for i, piece in enumerate(pieces):
            found = None if i in failed else vectors_of[piece.key]
            if i not in failed and found is None:
                failed[i] = run.too_large
            elif found is not None and not np.isfinite(found).all():
                failed[i] = NOT_FINITE
            parts.append(nothing if i in failed or found is None else found)
        return TokenEncoding(
            vectors=TokenVectors.of(parts) if parts else TokenVectors(nothing, np.zeros(1, int)),
            tokens=np.array([len(piece.ids) for piece in pieces], np.int64),
            dropped=np.array([piece.dropped for piece in pieces], np.int64),
            distinct=len(inputs),
            needed=sum(len(piece.ids) for piece in inputs.values()),
            computed=run.computed,
            retries=run.retries,
            failed=failed,
        )


class TokenRunner(BatchRunner):
    """Run inputs in batches of the token budget; a vector of each span, which is one token."""

    def start(self, pieces: list[Piece]) -> tuple["torch.Tensor", int]:
        """Start one forward pass.

        Returns:
          float32 (all spans, dim), on the backbone's device, and the number of tokens computed.
        """
        import torch

        with torch.inference_mode():
            ids = [piece.ids for piece in pieces]
            seen = [piece.attended for piece in cast(list[TokenPiece], pieces)]
            some = any(attended < len(one) for attended, one in zip(seen, ids, strict=True))
            hidden, _, computed = self.backbone.run(ids, attended=seen if some else None)
            starts = np.cumsum([0, *map(len, ids[:-1])])
            kept = [start + piece.spans[:, 0] for start, piece in zip(starts, pieces, strict=True)]
            rows = torch.from_numpy(np.concatenate(kept)).to(hidden.device)
            return self._head(hidden)[rows], computed


def check_token_config(config: EncoderConfig) -> None:
    """Refuse settings of how token vectors become a text's vector: here they stay as they are.

    Raises:
      InputError: such a setting is not the default.
    """
    plain = EncoderConfig(config.model)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in SUPPORTED and value != getattr(plain, field.name):
            raise InputError(
                f"{field.name} {value!r}: a model of token vectors supports only "
                f"{', '.join(SUPPORTED)}; leave it out"
            )


def _limit(folder: TokenFolder, route: str, config: EncoderConfig) -> int:
    """Return the tokens that a text of a route may have: the model's length of it, if it fits."""
    side = folder.sides[route]
    if config.max_tokens is not None or side.max_tokens is None:
        return position_limit(folder.model, config)
    own = dataclasses.replace(folder.model, max_tokens=side.max_tokens)
    return position_limit(own, config)


def _check_expansion(folder: TokenFolder, length: int, config: EncoderConfig) -> None:
    """Refuse queries that are lengthened to more than the model has positions."""
    unlimited = dataclasses.replace(folder.model, max_tokens=_UNLIMITED)
    positions = position_limit(unlimited, dataclasses.replace(config, max_tokens=None))
    if length > positions:
        raise InputError(
            f"model {config.model!r} lengthens queries to {length} tokens, but has {positions} "
            "positions; get a complete model"
        )


def _keep_marker_whole(tokenizer: Tokenizer, prefix: str) -> None:
    """Register a prefix, or its first word, as a token, if the vocabulary has it."""
    for marker in (prefix, *prefix.split(None, 1)[:1]):
        if marker.strip() and tokenizer.token_id(marker) is not None:
            tokenizer.keep_whole(marker)
            return
