"""List the gold pairs that mining did not find, with their texts, and why as far as is known.

rows of both sides --> WriteGoldRows --> one Parquet file --> take_sample --+
                                                     gold, pairs, summary --+--> missed_pairs

What meets: the rows that are named by a sample of the gold pairs.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import polars as pl
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from beam_gpte.core.columns import MARGIN, SIDE_IDS, SIDES, SOURCE_ID, TARGET_ID, Columns
from beam_gpte.core.errors import InputError
from beam_gpte.elements.block import Block
from beam_gpte.elements.wiring import named_collections
from beam_gpte.reports.sample import WriteSample

MAX_GOLD = 10_000  # pairs whose rows are collected
ID, TEXT, SIDE = "id", "text", "side"


@dataclasses.dataclass(frozen=True)
class MissedPair:
    """Describe a gold pair that is not among the pairs.

    Attributes:
      source_id: of the pair.
      target_id: of the pair.
      source_text: None if it is not known.
      target_text: None if it is not known.
      why: it was not found.
    """

    source_id: str
    target_id: str
    source_text: str | None
    target_text: str | None
    why: str


@dataclasses.dataclass(eq=False)
class WriteGoldRows(beam.PTransform):
    """Write the ids and texts of the rows of both sides that gold pairs name to one file.

    Attributes:
      path: the file.
      gold: the pairs, by `read_gold`.
      columns: of ids and texts.
    """

    path: str
    gold: pl.DataFrame
    columns: Columns

    @named_collections
    def expand(self, sides: Mapping[str, beam.PCollection[Block]]) -> beam.PCollection[str]:
        """Return the path."""
        some = _sampled(self.gold)
        parts = tuple(
            sides[side]
            | f"GoldRows_{side}"
            >> beam.FlatMap(
                _named_rows, side, frozenset(some[ids].to_list()), self.columns
            ).with_output_types(Block)
            for side, ids in zip(SIDES, SIDE_IDS, strict=True)
        )
        write = WriteSample(self.path, (SIDE, ID), (TEXT,), (), rows=2 * MAX_GOLD)
        return parts | "GoldRows" >> beam.Flatten() | "WriteGoldRows" >> write


def read_gold(path: str) -> pl.DataFrame:
    """Read JSON Lines of `source_id` and `target_id`; ids become strings.

    Raises:
      InputError: the file cannot be read, or a line lacks one of these.
    """
    try:
        with FileSystems.open(path) as file:
            lines = file.read().decode().splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        pairs = [tuple(str(row[name]) for name in SIDE_IDS) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not JSON Lines of source_id and target_id ({error}); name such a file"
        ) from error
    return pl.DataFrame(pairs, schema=dict.fromkeys(SIDE_IDS, pl.String), orient="row")


def missed_pairs(
    gold: pl.DataFrame, pairs: pl.DataFrame, rows: pl.DataFrame, summary: dict[str, Any]
) -> list[MissedPair]:
    """List the gold pairs that are not among the pairs, in the order of the gold.

    Args:
      gold: by `read_gold`; of very many, a sample.
      pairs: all that were found.
      rows: that `WriteGoldRows` wrote; without columns if there are none.
      summary: of the mining.
    """
    named = pairs.with_columns(pl.col(*SIDE_IDS).cast(pl.String))
    left = _sampled(gold).join(named, on=SIDE_IDS, how="anti", maintain_order="left")
    return [
        MissedPair(*ids, *texts, why)
        for ids, texts, why in _explained(left, named, _texts(rows), summary)
    ]


def _explained(
    left: pl.DataFrame,
    pairs: pl.DataFrame,
    texts: dict[tuple[str, str], str],
    summary: dict[str, Any],
) -> Iterator[tuple[tuple[str, str], tuple[str | None, str | None], str]]:
    partners = [_partners(pairs, *SIDE_IDS), _partners(pairs, TARGET_ID, SOURCE_ID)]
    represented = [_representatives(pairs, side) for side in SIDES]
    for source, target in left.select(SIDE_IDS).iter_rows():
        ids = str(source), str(target)
        found = texts.get((SIDES[0], ids[0])), texts.get((SIDES[1], ids[1]))
        yield ids, found, _why(ids, found, partners, represented, bool(texts), summary)


def _why(
    ids: tuple[str, str],
    texts: tuple[str | None, ...],
    partners: list[dict[str, tuple[str, float]]],
    represented: list[dict[str, str]],
    texts_known: bool,
    summary: dict[str, Any],
) -> str:
    shown = [represented[i].get(id_, id_) for i, id_ in enumerate(ids)]
    if partners[0].get(shown[0], ("", 0.0))[0] == shown[1]:
        return f"found as {shown[0]} and {shown[1]}, which have the same texts"
    reasons = [
        f"{SIDES[i]} is in a pair with {other} (margin {margin:.4f})"
        for i, (other, margin) in ((i, partners[i].get(shown[i], ("", 0.0))) for i in (0, 1))
        if other
    ]
    if reasons:
        return "; ".join(reasons)
    absent = [
        f"no {side} of this id" for side, text in zip(SIDES, texts, strict=True) if text is None
    ]
    if absent and texts_known:
        return " and ".join(absent)
    limit, median = summary.get("max_length_ratio"), summary.get("length_ratio_median")
    if limit and median and all(texts):
        ratio = len(texts[1] or "") / len(texts[0] or "") / median
        if not 1 / limit <= ratio <= limit:
            return f"length ratio {ratio:.2f}, beyond the limit of {limit:g}, or a margin too small"
    return "in no pair: not each other's best, or a margin below the minimum"


def _partners(pairs: pl.DataFrame, of: str, other: str) -> dict[str, tuple[str, float]]:
    """Map the ids of a side to their partner and its margin, the largest."""
    rows = pairs.select(of, other, MARGIN).sort(MARGIN, other, descending=[False, True]).rows()
    return {id_: (partner, margin) for id_, partner, margin in rows}


def _representatives(pairs: pl.DataFrame, side: str) -> dict[str, str]:
    """Map the ids of duplicates to the id of the row that was mined in their place."""
    duplicates, own = f"{side}_duplicates", f"{side}_id"
    if duplicates not in pairs.columns or not pairs[duplicates].dtype.is_nested():
        return {}
    rows = pairs.select(own, duplicates).drop_nulls().rows()
    return {str(id_): representative for representative, ids in rows for id_ in ids}


def _texts(rows: pl.DataFrame) -> dict[tuple[str, str], str]:
    if rows.is_empty():
        return {}
    return {(side, id_): text for side, id_, text in rows.select(SIDE, ID, TEXT).iter_rows()}


def _sampled(gold: pl.DataFrame) -> pl.DataFrame:
    """Keep at most `MAX_GOLD` pairs, the same ones whatever their order."""
    if len(gold) <= MAX_GOLD:
        return gold
    hashed = pl.concat_str(*SIDE_IDS, separator="\0").hash()
    return gold.filter(hashed.rank("ordinal") <= MAX_GOLD)


def _named_rows(block: Block, side: str, ids: frozenset[str], columns: Columns) -> Iterator[Block]:
    named = [str(id_) for id_ in block.column(columns.id).to_pylist()]
    rows = [i for i, id_ in enumerate(named) if id_ in ids]
    if rows:
        texts = block.column(columns.text).take(pa.array(rows)).to_pylist()
        yield Block.from_pydict(
            {
                SIDE: pa.array([side] * len(rows), pa.string()),
                ID: pa.array([named[i] for i in rows], pa.string()),
                TEXT: pa.array([None if t is None else str(t) for t in texts], pa.string()),
            }
        )
