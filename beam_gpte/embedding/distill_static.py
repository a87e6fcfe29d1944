"""Make a static model of a corpus and its vectors: `rows | DistillStatic(model, "models/static")`.

rows --> Usable --> Embed --> Sum: vectors by token, of a bundle --> Add ----+
                          +-> held out --> Sample                            |
the teacher's vocabulary --> EmbedTokens --> Sum                             v
                                              Save: model, files, what it loses of the teacher

What meets in Add: the sums of all bundles for some of the tokens, 8 MB at once; in Sample the rows
of all bundles with the smallest hashes. The model is made of all sums, so no shuffle before can
carry them. Sums are of whole numbers, see `core.static.distill`: the model does not depend on
bundles, shards or workers, beyond the last bits of the teacher's vectors.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsIter, TaggedOutput
from apache_beam.transforms.window import GlobalWindows

from beam_gpte.core.columns import DEFECT, EMBEDDING, HIDDEN, Columns
from beam_gpte.core.encoder.config import EncoderConfig, check_one_row
from beam_gpte.core.errors import InputError, InStep, naming
from beam_gpte.core.metadata import different_models, vector_metadata
from beam_gpte.core.static import distill
from beam_gpte.core.static.distill import (
    SHARES,
    UNITS,
    StaticModel,
    TokenSums,
    add_up,
    fit_static,
    load_static_tokenizer,
    measure_loss,
    no_sums,
    vocabulary_texts,
)
from beam_gpte.core.static.load_encoder import load_tokenizer
from beam_gpte.core.static.mean_tokens import mean_tokens
from beam_gpte.core.static.static_tokenizer import StaticTokenizer
from beam_gpte.core.vectors.similarity import unit_rows, vector_matrix, vectors_to_arrow
from beam_gpte.elements.block import Block, hidden_block
from beam_gpte.elements.checks import check_visible_text
from beam_gpte.elements.frames import TakesFrames
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.rejects import NAMESPACE
from beam_gpte.elements.rows import columns_as_blocks
from beam_gpte.elements.vectors import vectors_of, vectors_with_defects
from beam_gpte.embedding.embed_text import EmbedText
from beam_gpte.embedding.ensure_vectors import EmbedWhereMissing
from beam_gpte.embedding.models import as_model
from beam_gpte.files.folders import check_writable, remove_files
from beam_gpte.files.remote_model import fetch_model

STEP = "DistillStatic"
NOT_DISTILLED = "rows_not_distilled"  # a counter
COMPARED = 2000  # rows that are held out, each compared with each
OF_HASH = 10_000  # of which a share is held out
TOKENS_OF_BLOCK = 1024
HASH, HELD, VECTOR = (HIDDEN + name for name in ("text_hash", "text", "vector"))


@dataclasses.dataclass(frozen=True)
class Distilled:
    """Describe a static model, and what it loses of its teacher.

    Attributes:
      path: the model's folder.
      dim: its dimensions.
      explained_variance: share of the variance of the tokens' vectors that these dimensions keep.
      vocabulary: its tokens.
      vocabulary_of_texts: those that the corpus has; the others have the vector of the token alone.
      tokens_of_texts: tokens of the corpus.
      compared: rows of the corpus that it was not made of, at most 2,000, each compared with each.
      spearman: rank correlation of their cosines with those of the teacher; 1 for no loss, NaN for
        fewer than 3 rows.
      neighbors: share of the 10 rows nearest to each by the teacher that are so by the model.
    """

    path: str
    dim: int
    explained_variance: float
    vocabulary: int
    vocabulary_of_texts: int
    tokens_of_texts: int
    compared: int
    spearman: float
    neighbors: float


@dataclasses.dataclass(eq=False)
class DistillStatic(TakesFrames):
    """Make a static model, some hundred times as fast, of a teacher and a corpus.

    The vector of a token is the mean of the teacher's vectors of the texts that it is in; see
    `core.static.distill` for the method. Takes rows with texts, or with the teacher's vectors too.
    Returns a PCollection with one `Distilled`, or with none for a collection without rows. Rows
    without a text or with a vector that cannot be used are left out and counted
    (`rows_not_distilled`).

    The folder loads as a model wherever one is named, in model2vec and in sentence-transformers.
    Of one text it gives the same vector in all of them. `distill.json` has what `Distilled` has. To
    know whether the loss matters, try the model where it is to be used: it knows words, and not
    their order.

    A worker holds the sums of the tokens that its bundle has, 8 dim bytes each, at most
    94 MB for 30,000 tokens and 384 dimensions; the one that makes the model holds five times that,
    and the rows that are compared.

    Attributes:
      model: the teacher; what `EmbedText` takes.
      path: a folder to write to, on any Beam file system. A model that is there is replaced.
      dim: dimensions to keep, at most the teacher's.
      sif: of smooth inverse frequency: a token of frequency p counts sif / (sif + p); 0 for none.
      held_out: share of the rows that the model is not made of, but measured on, by their hash.
      tokenizer: a hub name or a folder of the model whose tokenizer is used; by default the
        teacher's, which a custom encoder does not have.
      whole_vocabulary: embed each token of the vocabulary as a text of its own, too. Without it the
        model knows the tokens of the corpus only.
      columns: of the ids, the vectors and the texts.
    """

    model: Any
    path: str
    dim: int = 256
    sif: float = 1e-3
    held_out: float = 0.02
    tokenizer: str | None = None
    whole_vocabulary: bool = True
    columns: Columns = dataclasses.field(default_factory=Columns)

    def __post_init__(self) -> None:
        if not self.path:
            raise InputError("path is empty; name a folder for the model")
        if type(self.dim) is not int or self.dim < 1:
            raise InputError(f"dim {self.dim!r}: give a positive whole number")
        if not 0 <= self.sif <= 1:
            raise InputError(f"sif {self.sif}: give a number from 0 to 1, such as 0.001")
        if not 0 <= self.held_out <= 0.5:
            raise InputError(f"held_out {self.held_out}: give a share from 0 to 0.5")
        check_one_row(as_model(self.model))
        self._tokenizer_config()

    def _tokenizer_config(self) -> EncoderConfig:
        """Name the model whose tokenizer is used."""
        if self.tokenizer is not None:
            return EncoderConfig(self.tokenizer)
        teacher = as_model(self.model)
        if not isinstance(teacher, EncoderConfig):
            raise InputError(
                f"model {type(teacher).__qualname__} has no tokenizer; name a model whose "
                "tokenizer is to be used: tokenizer=..."
            )
        code = teacher.trust_remote_code
        return EncoderConfig(teacher.model, teacher.revision, trust_remote_code=code)

    def expand(self, pcoll: beam.PCollection) -> beam.PCollection[Distilled]:
        """Return what is known of the model, once it is written."""
        if not (pcoll.is_bounded and pcoll.windowing.is_default()):
            raise InputError(
                f"{STEP}: the model is made of all rows at once, which a stream or windows do not "
                "allow; make it of a batch, and name its folder in the stream"
            )
        names = self.columns.text, self.columns.id, self.columns.embedding
        blocks = columns_as_blocks(pcoll, (), names[0], names[1], names[2:], STEP)
        usable = beam.FlatMap(InStep(STEP, _usable).__call__, *names[::2]).with_output_types(Block)
        embed = EmbedWhereMissing(self.model, *names, True, STEP)
        rows = (blocks | "Usable" >> usable | "Embed" >> embed).rows
        sum_texts = beam.ParDo(_SumTexts(self)).with_output_types(_Numbered, held=Block)
        sum_tokens = beam.ParDo(_SumTokens()).with_output_types(_Numbered)
        summed = rows | "Sum" >> sum_texts.with_outputs("held", main="sums")
        sums = summed.sums
        if self.whole_vocabulary:
            alone = self._tokens(rows.pipeline) | "SumTokens" >> sum_tokens
            sums = (sums, alone) | "Sums" >> beam.Flatten()
        added = sums | "Add" >> beam.CombinePerKey(_AddSums()).with_output_types(_Numbered)
        sample = summed.held | "Sample" >> beam.CombineGlobally(_Smallest()).with_output_types(
            Block
        )
        save = FromSideInputs(list, InStep(STEP, _save), AsIter(added), AsIter(sample), self)
        made = rows.pipeline | "Save" >> save
        return made | "Result" >> beam.FlatMap(lambda found: found).with_output_types(Distilled)

    def _tokens(self, pipeline: beam.Pipeline) -> beam.PCollection[Block]:
        """Embed each token of the vocabulary as a text of its own."""
        config = self._tokenizer_config()
        blocks = (
            pipeline
            | "Vocabulary" >> beam.Create([config])
            | "Tokens" >> beam.FlatMap(_vocabulary).with_output_types(Block)
            | "SpreadTokens" >> beam.Reshuffle()
        )
        embed = EmbedText(self.model, TEXT_OF_TOKEN, None).as_part_of(STEP)
        embedded, _ = blocks | "EmbedTokens" >> embed.with_exception_handling()
        return embedded


TEXT_OF_TOKEN = "token"
_Numbered = tuple[int, TokenSums]  # by the range of their tokens


def _usable(block: Block, text_column: str, embedding_column: str) -> Iterator[Block]:
    """Yield the rows that have a text, and no vector that cannot be used; count the others."""
    defects = [check_visible_text(block, text_column)]
    if embedding_column in block.schema.names:
        if block.column(embedding_column).null_count == len(block):
            block = block.without_columns([embedding_column])
        else:
            defects.append(vectors_with_defects(block, embedding_column)[1])
    bad = pc.is_valid(pc.coalesce(*defects))
    if DEFECT in block.schema.names:
        bad = pc.or_(bad, pc.is_valid(block.column(DEFECT)))
        block = block.without_columns([DEFECT])
    Metrics.counter(NAMESPACE, NOT_DISTILLED).inc(pc.sum(bad).as_py() or 0)
    yield block.filter(pc.invert(bad))


def _vocabulary(config: EncoderConfig) -> Iterator[Block]:
    """Yield the tokens of a vocabulary, with their numbers."""
    found = vocabulary_texts(_tokenizer_of(config))
    numbers, texts = list(found), list(found.values())
    for start in range(0, len(numbers), TOKENS_OF_BLOCK):
        end = start + TOKENS_OF_BLOCK
        yield Block.from_pydict(
            {TEXT_OF_TOKEN: texts[start:end], "number": np.array(numbers[start:end], np.int64)}
        )


def _tokenizer_of(config: EncoderConfig) -> str:
    """Return the content of the tokenizer.json of a model."""
    tokenizer = load_tokenizer(config, fetch_model(config.model)).tokenizer
    return tokenizer.to_json()


class _Summing(beam.DoFn):
    """Add up what the blocks of a bundle add to tokens."""

    def start_bundle(self) -> None:
        self._sums: TokenSums | None = None

    def _plus(self, sums: TokenSums) -> None:
        with naming(STEP):
            self._sums = sums if self._sums is None else self._sums.plus(sums)

    def finish_bundle(self) -> Iterator[Any]:
        if self._sums is not None:
            for part in self._sums.parts():
                yield GlobalWindows.windowed_value(part)


class _SumTexts(_Summing):
    """Sum vectors by the tokens of their texts; yield those of the rows that are held out."""

    def __init__(self, settings: DistillStatic) -> None:
        self._columns = settings.columns
        self._held = round(settings.held_out * OF_HASH)
        self._config = settings._tokenizer_config()
        self._tokenizer: StaticTokenizer | None = None
        self._add = InStep(STEP, self._add_block)

    def process(self, block: Block) -> Iterator[Any]:
        if block:
            yield from self._add(block)

    def _add_block(self, block: Block) -> list[TaggedOutput]:
        if self._tokenizer is None:
            self._tokenizer = load_static_tokenizer(_tokenizer_of(self._config))
        texts = block.column(self._columns.text).cast(pa.string()).to_pylist()
        vectors = unit_rows(vectors_of(block, self._columns.embedding))
        digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
        hashes = np.frombuffer(b"".join(digests), np.uint64)
        held = hashes % OF_HASH < self._held
        kept = np.flatnonzero(~held)
        self._plus(no_sums(vectors.shape[1], models=_model_of(block, self._columns.embedding)))
        if len(kept):
            found = self._tokenizer.encode([texts[i] for i in kept])
            self._plus(distill.sum_texts(found, vectors[kept]))
        if not held.any():
            return []
        mask = pa.array(held)
        array = vectors_to_arrow(vectors[held])
        text = pa.array(texts, pa.string()).filter(mask)
        described = hidden_block({HASH: hashes[held], HELD: text, VECTOR: array})
        return [TaggedOutput("held", described)]


class _SumTokens(_Summing):
    """Sum vectors of tokens alone."""

    def process(self, block: Block) -> None:
        if block:
            tokens = block.column("number").to_numpy()
            units = np.rint(unit_rows(vectors_of(block, EMBEDDING)).astype(np.float64) * UNITS)
            shares = np.full(len(tokens), int(SHARES), np.int64)
            sums = units.astype(np.int64) * int(SHARES)
            order = np.argsort(tokens, kind="stable")
            counts = np.zeros_like(shares)
            models = _model_of(block, EMBEDDING)
            self._plus(TokenSums(tokens[order], counts, shares, sums[order], models))


def _model_of(block: Block, column: str) -> frozenset[str]:
    """Return the identity of the model of a block's vectors, if it is known."""
    known = vector_metadata(block.schema.field(column))
    return frozenset() if known is None else frozenset([known.identity])


class _AddSums(beam.CombineFn):
    """Add up the sums of the same tokens."""

    def create_accumulator(self) -> TokenSums | None:
        return None

    def add_input(self, total: TokenSums | None, sums: TokenSums) -> TokenSums:
        with naming(STEP):
            return sums if total is None else total.plus(sums)

    def merge_accumulators(self, totals: Iterable[TokenSums | None]) -> TokenSums | None:
        with naming(STEP):
            return add_up(total for total in totals if total is not None)

    def extract_output(self, total: TokenSums | None) -> TokenSums | None:
        return total


class _Smallest(beam.CombineFn):
    """Keep the rows with the smallest hashes of their texts."""

    def create_accumulator(self) -> list[Block]:
        return []

    def add_input(self, kept: list[Block], block: Block) -> list[Block]:
        return _smallest([*kept, block])

    def merge_accumulators(self, parts: Iterable[list[Block]]) -> list[Block]:
        return _smallest([block for kept in parts for block in kept])

    def extract_output(self, kept: list[Block]) -> Block:
        empty = hidden_block({HASH: np.empty(0, np.uint64)})
        return Block.concat(_smallest(kept, COMPARED)) if kept else empty


def _smallest(blocks: list[Block], limit: int = 2 * COMPARED) -> list[Block]:
    """Drop rows of larger hashes where there are more than `limit`."""
    if sum(map(len, blocks)) <= limit:
        return blocks
    rows = Block.concat(blocks)
    order = np.argsort(rows.column(HASH).to_numpy(), kind="stable")[:COMPARED]
    return [rows.take(pa.array(order))]


def _save(
    parts: Iterable[_Numbered], samples: Iterable[Block], settings: DistillStatic
) -> list[Distilled]:
    """Make the model, measure it, and write it; nothing of a collection without rows."""
    total = add_up(sums for _, sums in sorted(parts, key=lambda part: part[0]))
    (sample,) = samples
    if total is None or not total.counts.any():
        return []
    if difference := different_models(set(total.models)):
        raise InputError(
            f"vectors of two models, {difference}; give rows with vectors of the teacher, or with "
            "none"
        )
    config = settings._tokenizer_config()
    model = fit_static(total, _tokenizer_of(config), settings.dim, settings.sif)
    compared = _compare(model, sample)
    found = Distilled(path=settings.path, **model.about, **compared)
    about = {**dataclasses.asdict(found), "sif": settings.sif, "held_out": settings.held_out}
    write_model(dataclasses.replace(model, about=about), settings.path)
    return [found]


def _compare(model: StaticModel, sample: Block) -> dict[str, Any]:
    """Measure what the model loses, on rows that it was not made of."""
    if not len(sample):
        return {"compared": 0, "spearman": float("nan"), "neighbors": float("nan")}
    order = np.argsort(sample.column(HASH).to_numpy(), kind="stable")
    texts = sample.column(HELD).to_pylist()
    found = load_static_tokenizer(model.tokenizer).encode([texts[i] for i in order])
    means = np.nan_to_num(mean_tokens(model.vectors, found.ids, found.counts))
    teacher = vector_matrix(sample.column(VECTOR))[order]
    loss = measure_loss(teacher, unit_rows(means))
    return {"compared": loss.texts, "spearman": loss.spearman, "neighbors": loss.neighbors}


def write_model(model: StaticModel, folder: str) -> None:
    """Write a model to a folder, on any Beam file system; the files that name it are last."""
    check_writable(folder)
    files = {FileSystems.join(folder, name): content for name, content in model.files().items()}
    remove_files([path for path in reversed(files) if FileSystems.exists(path)])
    for path, content in files.items():
        partial = f"{path}.partial"
        with FileSystems.create(partial, compression_type="uncompressed") as file:
            file.write(content)
        FileSystems.rename([partial], [path])
