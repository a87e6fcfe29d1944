"""Encode texts into vectors: `TextEncoder.encode(texts) -> float32 (n, dim)`, in input order.

texts --> distinct texts --> tokens --> batches by length --> backbone --> pooling --> head
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np

from beam_gpte.core import canaries
from beam_gpte.core.encoder.adapters.find import open_model_folder
from beam_gpte.core.encoder.backbone import Backbone, start_torch
from beam_gpte.core.encoder.batch_runner import BatchRunner
from beam_gpte.core.encoder.chat_template import ChatFrame, chat_frame
from beam_gpte.core.encoder.config import TAIL_MEAN, EncoderConfig, hash_settings
from beam_gpte.core.encoder.heads import load_head
from beam_gpte.core.encoder.inputs import Piece, Prepared, Preparer
from beam_gpte.core.encoder.model_folder import (
    ModelFolder,
    model_name,
)
from beam_gpte.core.encoder.own_code.own_pooling import OWN, check_own_pooling
from beam_gpte.core.encoder.pretrained import named_failure
from beam_gpte.core.encoder.tokenizer import Tokenizer
from beam_gpte.core.encoder.towers.fit_texts import FitTexts
from beam_gpte.core.encoder.towers.load_tower import load_text_tower
from beam_gpte.core.errors import InputError
from beam_gpte.core.loading import one_at_a_time
from beam_gpte.core.metadata import VectorMetadata
from beam_gpte.core.visible_text import EMPTY, check_texts, is_visible

if TYPE_CHECKING:
    import torch

# Texts that are tokenized at once and sorted by length together.
TEXTS_AHEAD = 8192

NOT_FINITE = "the model gave a vector that is not finite"


@runtime_checkable
class Encoder(Protocol):
    """Define a text embedding model by one method: bring your own.

    An attribute ``fingerprint: str`` that changes with the vectors lets sinks tell two models of
    one class apart.
    """

    def encode(self, texts: list[str]) -> np.ndarray:
        """Return one float32 vector per text, shape (n, dim), in the order of the texts."""


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Hold the vectors of some texts, and count the work.

    Attributes:
      vectors: float32 (m, dim): one per text, or one per chunk if so configured; NaN for a text
        that failed.
      text: int64 (m,), the text of each vector, ascending.
      chars: int64 (m, 2), the characters of the text that each vector represents.
      tokens: int64 (m,), tokens that went into each vector, special tokens included where they were
        pooled.
      dropped: int64 (n,), tokens of each text that are in no vector.
      distinct: number of distinct inputs; each was run once.
      needed: tokens of these inputs.
      computed: tokens that the backbone ran over, padding included.
      retries: how often a batch was halved because it did not fit the memory.
      failed: why a text has no vector, by position.
      found: bool (n,), whether the vectors of a text were known before.
      counts: what else the work has cost, by the name of a counter.
    """

    vectors: np.ndarray
    text: np.ndarray
    chars: np.ndarray
    tokens: np.ndarray
    dropped: np.ndarray
    distinct: int
    needed: int
    computed: int
    retries: int
    failed: dict[int, str]
    found: np.ndarray
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def checked(self) -> np.ndarray:
        """Return the vectors.

        Raises:
          InputError: a text failed; the message names its position.
        """
        for position, reason in self.failed.items():
            raise InputError(f"text {position}: {reason}")
        return self.vectors


class KnownVectors(Protocol):
    """Define what finds the vectors of inputs, by any bytes that are the same for equal ones."""

    def find(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return the vectors of those inputs that are known, float32 (m, dim) each."""

    def add(self, key: bytes, vectors: np.ndarray) -> None:
        """Take the vectors of an input, float32 (m, dim)."""


class TokenCounts(NamedTuple):
    """Count the tokens of some texts without running the model, int64 (n,) each.

    Attributes:
      tokens: that go into the vectors of each text, as `Encoding.tokens` sums them.
      dropped: of each text, that are in no vector.
      run: that the model runs over for each text, where no other text is the same.
    """

    tokens: np.ndarray
    dropped: np.ndarray
    run: np.ndarray


class _TextVectors(NamedTuple):
    """Hold the vectors of one text with the fields of `Encoding` that go with them."""

    vectors: np.ndarray
    chars: np.ndarray
    tokens: np.ndarray


class TextEncoder:
    """Encode texts with a loaded pretrained model; safe to share between threads.

    Same input, same vector: a text's neighbors change it by less than 1e-5 in fp32.
    """

    def __init__(
        self,
        config: EncoderConfig,
        folder: ModelFolder,
        tokenizer: Tokenizer,
        backbone: Backbone,
        head: "torch.nn.Module",
        frame: ChatFrame | None = None,
        fit: FitTexts | None = None,
    ) -> None:
        self.config = config
        self._tokenizer = tokenizer
        self._prompt = "" if config.template else folder.prompt(config)
        modes = folder.pooling_modes(config)
        if backbone.pools:
            leaves_out = bool(self._prompt) and not folder.pool_prompt
            check_own_pooling(config, leaves_out, backbone.takes_mask)
            modes = (OWN,)
        pooling = tuple("mean" if mode == TAIL_MEAN else mode for mode in modes)
        self._runner = BatchRunner(backbone, head, pooling, config)
        self._frame = frame
        self._preparer = Preparer(tokenizer, config, self._prompt, folder.pool_prompt, frame, fit)
        self.metadata = self._make_metadata(folder, modes)

    @classmethod
    @one_at_a_time
    def load(
        cls, config: EncoderConfig | str, root: Path | None = None, adapter: Path | None = None
    ) -> "TextEncoder":
        """Load a model from a hub name or a folder.

        Weights are safetensors only, and none of the model's code is run unless trusted.

        Args:
          config: the model; a string means a model with all defaults.
          root: the local folder that holds the model where `config.model` names a remote place.
          adapter: that of the adapter where `config.adapter` names a remote place.

        Raises:
          InputError: the model does not exist, has no safetensors, is incomplete or damaged, or has
            unsupported modules.
        """
        config = start_torch(config)
        folder = open_model_folder(config, root, adapter)
        folder.prompt(config)
        folder.pooling_modes(config)
        tokenizer = Tokenizer.of(folder, config)
        frame = chat_frame(folder, config)
        samples = tokenizer.samples(config.precision, frame.fill if frame else None)
        if folder.towers is not None:
            import torch

            tower = load_text_tower(folder, config)
            fit = FitTexts.of(folder.towers, tokenizer, tower.model.config)
            backbone = Backbone.from_model(tower.model, config, tokenizer.pad_id, samples)
            head = torch.nn.Sequential(tower.projection, *load_head(folder.modules))
            return cls(config, folder, tokenizer, backbone, head, frame, fit)
        backbone = Backbone.load(folder, config, tokenizer.pad_id, samples)
        return cls(config, folder, tokenizer, backbone, load_head(folder.modules), frame)

    @property
    def dim(self) -> int:
        """Return the dimensions of a vector."""
        return self.metadata.dim

    @property
    def unpadded(self) -> bool:
        """Return whether texts run end to end, without padding; see `core.encoder.unpadded`."""
        return self._runner.backbone.unpadded

    @property
    def fingerprint(self) -> str:
        """Return a hash of everything that changes a vector."""
        return self.metadata.fingerprint

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embed `texts`.

        Returns:
          float32 (n, dim), in the order of the texts.

        Raises:
          InputError: `texts` is not a list of strings, a text cannot be embedded (the message names
            its position), or one vector per chunk is configured (`encode_with_counts` returns the
            text of each).
        """
        if self.config.splits:
            raise InputError(
                f"long_text {self.config.long_text!r} gives several vectors per text; "
                "call encode_with_counts"
            )
        return self.encode_with_counts(texts).checked()

    def encode_with_counts(self, texts: list[str], known: KnownVectors | None = None) -> Encoding:
        """Embed `texts`, each distinct input once, and count the work; see `Encoding`.

        Args:
          texts: to embed.
          known: vectors that need not be computed; gets those that are.

        Raises:
          InputError: `texts` is not a list of strings.
        """
        check_texts(texts, "encode")
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        prepared: list[Prepared] = []
        vectors_of: dict[bytes, np.ndarray | None] = {}
        runs, needed, found = [], 0, set[bytes]()

        def keep(piece: Piece, vectors: np.ndarray) -> None:
            if known is not None:
                known.add(piece.key, vectors)

        for some in self._prepare_ahead(list(distinct)):
            prepared += some
            # texts that differ only in blanks or case are often the same to the model
            pieces = (piece for one in some for piece in one.pieces)
            inputs = {piece.key: piece for piece in pieces if piece.key not in vectors_of}
            if known is not None:
                there = known.find(list(inputs))
                vectors_of |= there
                found.update(there)
                inputs = {key: piece for key, piece in inputs.items() if key not in there}
            runs.append(self._runner.run(list(inputs.values()), keep))
            vectors_of |= zip(inputs, runs[-1].vectors, strict=True)
            needed += sum(len(piece.ids) for piece in inputs.values())

        parts: list[_TextVectors] = []
        failed: dict[int, str] = {}
        for position, text in enumerate(texts):
            part = self._gather(prepared[distinct[text]], vectors_of)
            if part is None:
                too_large = max(run.too_large for run in runs)
                has_pieces = bool(prepared[distinct[text]].pieces)
                failed[position] = too_large if has_pieces else _why_empty(text)
                part = _TextVectors(self._no_vector, np.array([[0, len(text)]]), np.array([0]))
            parts.append(part)
        # without texts, shapes and types of the results remain
        empty = _TextVectors(self._no_vector[:0], np.empty((0, 2), int), np.empty(0, int))
        joined = _TextVectors(*map(np.concatenate, zip(empty, *parts, strict=True)))
        text_of = np.repeat(np.arange(len(texts)), [len(part.vectors) for part in parts])
        failed |= fail_not_finite(joined.vectors, text_of, failed)
        return Encoding(
            vectors=joined.vectors,
            text=text_of,
            chars=joined.chars,
            tokens=joined.tokens,
            dropped=np.array([prepared[distinct[text]].dropped for text in texts], np.int64),
            distinct=len(vectors_of),
            needed=needed,
            computed=sum(run.computed for run in runs),
            retries=sum(run.retries for run in runs),
            failed=failed,
            found=np.array([_all_in(prepared[distinct[text]], found) for text in texts], bool),
        )

    def count_tokens(self, texts: list[str]) -> TokenCounts:
        """Count the tokens of `texts`, which are only tokenized.

        Raises:
          InputError: `texts` is not a list of strings.
        """
        check_texts(texts, "count_tokens")
        prepared = self._preparer.prepare(texts)
        tokens = [sum(int(piece.counts.sum()) for piece in one.pieces) for one in prepared]
        run = [sum(len(piece.ids) for piece in one.pieces) for one in prepared]
        counts = tokens, [one.dropped for one in prepared], run
        return TokenCounts(*(np.array(count, np.int64) for count in counts))

    def _prepare_ahead(self, texts: list[str]) -> Iterator[list[Prepared]]:
        """Prepare some `texts` at a time; a thread tokenizes the next while the model runs."""
        parts = [texts[i : i + TEXTS_AHEAD] for i in range(0, len(texts), TEXTS_AHEAD)]
        if len(parts) < 2:
            yield from map(self._preparer.prepare, parts)
            return
        with ThreadPoolExecutor(1) as tokenizing:
            following = tokenizing.submit(self._preparer.prepare, parts[0])
            for part in parts[1:]:
                ready = following.result()
                following = tokenizing.submit(self._preparer.prepare, part)
                yield ready
            yield following.result()

    @property
    def _no_vector(self) -> np.ndarray:
        return np.full((1, self.dim), np.nan, np.float32)

    def _gather(
        self, prepared: Prepared, vectors_of: dict[bytes, np.ndarray | None]
    ) -> _TextVectors | None:
        """Collect one text's vectors; None if it has no pieces, or a piece failed.

        Windows are averaged, weighted by tokens.
        """
        pieces = prepared.pieces
        found = [part for piece in pieces if (part := vectors_of[piece.key]) is not None]
        if not pieces or len(found) < len(pieces):
            return None
        vectors = np.concatenate(found)
        chars = np.concatenate([piece.chars for piece in pieces])
        tokens = np.concatenate([piece.counts for piece in pieces])
        if self.config.long_text != "windows" or len(vectors) == 1:
            return _TextVectors(vectors, chars, tokens)
        mean = np.average(vectors, axis=0, weights=tokens, keepdims=True).astype(np.float32)
        if self.config.normalize:
            mean /= np.linalg.norm(mean)
        whole = np.array([[chars[0, 0], chars[-1, 1]]])
        return _TextVectors(mean, whole, tokens.sum(keepdims=True))

    def _encode_canaries(self) -> list[np.ndarray | None]:
        """Embed the fixed texts of `core.canaries`: the mean where a text gives several vectors.

        None stands for a text without tokens.
        """
        prepared = self._preparer.prepare(canaries.TEXTS)
        run = self._runner.run([piece for one in prepared for piece in one.pieces])
        vectors = iter(run.vectors)
        found = [[next(vectors) for _ in one.pieces] for one in prepared]
        parts = [[part for part in some if part is not None] for some in found]
        return [np.concatenate(some).mean(0) if some else None for some in parts]

    def _make_metadata(self, folder: ModelFolder, modes: tuple[str, ...]) -> VectorMetadata:
        """Measure the output on a probe and hash everything that can change a vector."""
        config = self.config
        with named_failure(folder.root / "modules.json", "names modules that do not fit together"):
            seen = self._encode_canaries()
            full, unit = self._full_dim(seen)
        if config.truncate_dim is not None and config.truncate_dim > full:
            raise InputError(
                f"truncate_dim {config.truncate_dim}: model {config.model!r} has {full} "
                "dimensions; give at most that"
            )
        dim = min(config.truncate_dim or full, full)
        vectors = [np.zeros(dim) if one is None else one for one in seen]
        backbone = self._runner.backbone
        resolved = {
            "files": folder.hash(config),
            "pooling": modes,
            "pool_prompt": folder.pool_prompt or not self._prompt,
            "prompt": self._prompt,
            "max_tokens": self._tokenizer.max_tokens,
        }
        has_images = folder.towers is not None and folder.towers.has_images
        if has_images:
            # what the tokenizer allows is in its files, and unknown where images are embedded
            resolved["max_tokens"] = config.max_tokens
        if self._frame is not None:
            resolved["chat"] = [*self._frame.parts, self._frame.trims]
        if backbone.fp32_layers:
            resolved["fp32_layers"] = backbone.fp32_layers
        return VectorMetadata(
            model=model_name(config),
            fingerprint=hash_settings(config, resolved),
            pooling="+".join(modes) if folder.towers is None else folder.towers.pooling,
            prompt=self._frame.fill(["{text}"]) if self._frame else config.template or self._prompt,
            dim=dim,
            normalized=config.normalize or (unit and config.truncate_dim is None),
            engine=f"{backbone.precision} {backbone.attention}",
            canaries=canaries.sketch(np.stack(vectors), config.precision),
            route=folder.route,
            modality="text" if has_images else "",
        )

    def _full_dim(self, seen: list[np.ndarray | None]) -> tuple[int, bool]:
        """Return the dimensions before truncation, and whether the model gives length 1."""
        first = next((one for one in seen if one is not None), None)
        if first is not None and self.config.normalize and self.config.truncate_dim is None:
            return len(first), True
        return self._runner.full_dim(self._tokenizer.encode(["dimension"]).ids[0])


def fail_not_finite(
    vectors: np.ndarray, text: np.ndarray, failed: dict[int, str]
) -> dict[int, str]:
    """Find texts with a vector that is NaN or infinite.

    Args:
      vectors: float32 (m, dim).
      text: int64 (m,), the text of each vector.
      failed: texts that are known to have no vector.

    Returns:
      The reason by text, of those that are not in `failed`.
    """
    if np.isfinite(vectors).all():
        return {}
    bad = text[~np.isfinite(vectors).all(axis=1)]
    return {int(i): NOT_FINITE for i in bad if int(i) not in failed}


def _all_in(prepared: Prepared, found: set[bytes]) -> bool:
    return bool(found and prepared.pieces) and all(p.key in found for p in prepared.pieces)


def _why_empty(text: str) -> str:
    return "text is empty: the model has no token for it" if is_visible(text) else EMPTY
