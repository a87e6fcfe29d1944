r"""Measure the texts of a sample: their tokens, and how fast this machine embeds them.

files --> READERS --> texts --> tokens, truncation
                        \----> some of them --> the model, on all cores --> seconds per token
"""

import dataclasses
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from beam_gpte.core.process import torch_threads
from beam_gpte.core.static.load_encoder import Pretrained
from beam_gpte.core.static.static_encoder import StaticEncoder
from beam_gpte.elements.block import ROWS_PER_BLOCK
from beam_gpte.elements.checks import text_defects
from beam_gpte.sources.corpus_files import file_format, open_file, reading
from beam_gpte.sources.formats.readers import READERS
from beam_gpte.sources.formats.rows import ColumnSelection

MAX_CHARACTERS = 4 << 20  # that are tokenized, of all texts
GROUP_TOKENS = 8192  # that are embedded at once, of at most a block of texts
FIRST_TEXTS = 16  # with which the model warms up


def usable_texts(paths: Sequence[str], selection: ColumnSelection) -> Iterator[str]:
    """Read the texts of files that can be embedded.

    Args:
      paths: of the files.
      selection: of the id and the text column.
    """
    for path in paths:
        with reading(path), open_file(path) as file:
            for rows in READERS[file_format(path)](file, selection, ROWS_PER_BLOCK):
                column = rows.batch.column(selection.text_column)
                good = column.filter(text_defects(column).is_null())
                yield from good.cast(pa.string()).to_pylist()


@dataclasses.dataclass(frozen=True)
class TextFigures:
    """Describe the texts of a sample, per text.

    Attributes:
      texts: that can be embedded.
      tokens: mean of the tokens in the vectors.
      truncated: share of the texts that are.
      run: mean of the tokens that the model runs over, once for texts that a block repeats.
      is_counted: whether the tokens of all texts were counted.
    """

    texts: int
    tokens: float
    truncated: float
    run: float
    is_counted: bool = True


NO_TEXTS = TextFigures(0, 0.0, 0.0, 0.0)


def measure_texts(model: Pretrained, texts: list[str]) -> TextFigures:
    """Count tokens; of very long texts in a part of them, evenly spaced."""
    if not texts:
        return NO_TEXTS
    step = -(-sum(map(len, texts)) // MAX_CHARACTERS)
    some, tokens, truncated, run = texts[::step], 0, 0, 0
    for start in range(0, len(some), ROWS_PER_BLOCK):
        part = some[start : start + ROWS_PER_BLOCK]
        counts = model.count_tokens(part)
        tokens += int(counts.tokens.sum())
        truncated += int((counts.dropped > 0).sum())
        run += sum(dict(zip(part, counts.run.tolist(), strict=True)).values())
    count = len(some)
    return TextFigures(len(texts), tokens / count, truncated / count, run / count, step == 1)


@dataclasses.dataclass(frozen=True)
class Speed:
    """Hold what a token costs where all threads are busy.

    Attributes:
      seconds: of the clock.
      cpu: seconds.
      first: seconds of the clock that the first texts took beyond that.
      vectors: of the texts that were embedded, float32 (n, dim).
    """

    seconds: float
    cpu: float
    first: float
    vectors: np.ndarray


NO_SPEED = Speed(0.0, 0.0, 0.0, np.empty((0, 1), np.float32))


def measure_speed(
    model: Pretrained, texts: list[str], figures: TextFigures, threads: int, seconds: float
) -> Speed:
    """Embed texts in the order of chance, for so many seconds, as the workers of a job do."""
    shuffled = random.Random(0).sample(texts, len(texts))
    size = int(min(ROWS_PER_BLOCK, max(8, GROUP_TOKENS / max(1.0, figures.run))))
    groups = iter([shuffled[i : i + size] for i in range(0, len(shuffled), size)])
    began, first_texts = time.monotonic(), shuffled[:FIRST_TEXTS]
    found, done, lock = [_embed(model, first_texts)], [], threading.Lock()
    first, began, cpu = time.monotonic() - began, time.monotonic(), time.process_time()

    def work() -> None:
        while time.monotonic() - began < seconds:
            with lock:
                group = next(groups, None)
            if group is None:
                return
            found.append(_embed(model, group))
            done.append(group)

    with ThreadPoolExecutor(threads) as pool:
        for ended in [pool.submit(work) for _ in range(threads)]:
            ended.result()
    taken, used = time.monotonic() - began, time.process_time() - cpu
    tokens = max(1, sum(int(model.count_tokens(group).run.sum()) for group in done))
    expected = used / tokens * int(model.count_tokens(first_texts).run.sum())
    vectors = np.concatenate(found)
    finite = vectors[np.isfinite(vectors).all(axis=1)]
    return Speed(taken / tokens, used / tokens, max(0.0, first - expected), finite)


def _embed(model: Pretrained, texts: list[str]) -> np.ndarray:
    if isinstance(model, StaticEncoder):
        return model.encode_with_counts(texts).vectors
    with torch_threads(1):
        return model.encode_with_counts(texts).vectors
