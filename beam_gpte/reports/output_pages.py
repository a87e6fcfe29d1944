"""Render pages about outputs: streams, stored vectors, answers, extracted texts, converted models.

They show a sample of the output (`sample_vectors`), or what the program has in memory.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import polars as pl

from beam_gpte.core.columns import DUPLICATE_OF, SCORE
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.dedup.report import TEXT_SHOWN
from beam_gpte.reports.charts import Threshold, histogram, log_histogram
from beam_gpte.reports.duplicates import STATE, removed_rows
from beam_gpte.reports.page import Example, Figure, Run, Section, render_page
from beam_gpte.reports.sample import LENGTH
from beam_gpte.reports.sections import (
    MAX_EXAMPLES,
    compare_texts,
    cosines_figure,
    lengths_figure,
    nearest_texts,
    reject_sections,
    shorten,
    unit_vectors,
    vectors_map,
)

_KEPT_TEXT = "_kept_text"


@dataclasses.dataclass(frozen=True)
class StreamSample:
    """Hold rows that are in the output of a stream now, from all of its runs.

    Attributes:
      kept: a sample of the rows with their vectors; no columns if there are none.
      removed: a sample of the removed rows.
      id_column: their ids.
      text_column: their texts.
      embedding_column: their vectors.
    """

    kept: pl.DataFrame
    removed: pl.DataFrame
    id_column: str
    text_column: str
    embedding_column: str


def stream_page(
    run: Run,
    summary: dict[str, Any],
    sample: StreamSample,
    config: EncoderConfig | None = None,
) -> str:
    """Render the page of an embedded stream.

    Args:
      run: what it reports on.
      summary: of `beam-gpte stream`.
      sample: of the whole output.
      config: of the model, to count tokens; None counts characters.
    """
    tiles = {
        "files": summary["files_read"],
        "rows": summary["rows_read"],
        "texts": summary["texts"],
        "texts per second": round(summary["texts"] / max(summary["seconds"], 1e-9), 1),
        "removed": summary["removed"],
        "rejected": summary["rejected"],
    }
    threshold = run.parameters.get("threshold")
    sections = [
        *_stream_maps(sample),
        *_stream_figures(sample, threshold, config),
        *_repeated(sample),
        *reject_sections(summary["reasons"]),
    ]
    about = {"dimension": _dimension(sample)}
    return render_page("Embedded stream", run, tiles, sections, about=about)


def _dimension(sample: StreamSample) -> int | None:
    parts = [rows for rows in (sample.kept, sample.removed) if len(rows)]
    return parts[0][sample.embedding_column].to_numpy().shape[1] if parts else None


def _stream_figures(
    sample: StreamSample, threshold: float | None, config: EncoderConfig | None
) -> list[Section]:
    figures = [
        lengths_figure(rows, sample.text_column, f"{name} rows of the output", config)
        for name, rows in (("kept", sample.kept), ("removed", sample.removed))
        if len(rows)
    ]
    if len(sample.removed):
        figures.append(_stream_scores(sample, threshold))
    return [Section("Lengths and scores", figures=figures)] if figures else []


def _stream_scores(sample: StreamSample, threshold: float | None) -> Figure:
    """Show the scores of removed rows, and of kept ones the cosine to the nearest of the sample."""
    scores = sample.removed[SCORE].to_numpy()
    note = f"of {len(sample.removed):,} removed rows of the output, a sample"
    mark = None
    if threshold is not None and len(sample.kept) > 1:
        vectors = unit_vectors(sample.kept[sample.embedding_column].to_numpy())
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -1)
        nearest = cosines.max(axis=1)
        scores = np.concatenate([scores, nearest[nearest < threshold]])
        mark = Threshold(threshold, f"threshold, {threshold:g}", "removed", "kept")
        note += "; of kept rows the cosine to the nearest in the sample"
    return Figure("Scores", histogram(scores, "score", mark, "rows"), note)


def _repeated(sample: StreamSample) -> list[Section]:
    """Show removed rows beside the kept rows that they duplicate."""
    if not (len(sample.kept) and len(sample.removed)):
        return []
    id_column, text = sample.id_column, sample.text_column
    kept = sample.kept.select(pl.col(id_column).cast(pl.String), pl.col(text).alias(_KEPT_TEXT))
    removed = sample.removed.with_columns(pl.col(DUPLICATE_OF).cast(pl.String))
    found = removed.join(kept, left_on=DUPLICATE_OF, right_on=id_column).sort(SCORE, DUPLICATE_OF)
    first = found.unique(text, keep="first", maintain_order=True).head(MAX_EXAMPLES)
    examples = [
        compare_texts(
            f"score {row[SCORE]:.4f}",
            (row[DUPLICATE_OF], row[_KEPT_TEXT]),
            (str(row[id_column]), row[text]),
        )
        for row in first.iter_rows(named=True)
    ]
    note = "Removed rows of the sample and the kept rows that they duplicate, lowest scores first."
    shown = [Section("Repeated texts", note, examples=examples)] if examples else []
    return [*shown, removed_rows(sample.removed, text, id_column)]


def _stream_maps(sample: StreamSample) -> list[Section]:
    parts = [rows for rows in (sample.kept, sample.removed) if len(rows)]
    both = pl.concat(parts, how="diagonal_relaxed") if parts else pl.DataFrame()
    if len(both) < 2:
        return []
    sections, n, text = [], len(sample.kept), sample.text_column
    vectors, is_kept = (
        unit_vectors(both[sample.embedding_column].to_numpy()),
        np.arange(len(both)) < n,
    )
    if n > 1:
        cosines = np.clip(vectors[:n] @ vectors[:n].T, -1, 1)
        sections.append(nearest_texts(cosines, sample.kept, text, sample.id_column))
    columns = {STATE: ["kept" if kept else "removed" for kept in is_kept]}
    shown = vectors_map(both, vectors, text, sample.id_column, columns)
    return [shown, *sections]


def vectors_page(
    run: Run, found: dict[str, Any], samples: Mapping[str, pl.DataFrame], label_column: str
) -> str:
    """Render the page of stored vectors.

    Args:
      run: what it reports on.
      found: by `describe_vectors`.
      samples: of each column of vectors.
      label_column: the texts, or ids, shown for a point.
    """
    tiles = {
        "rows": found["rows"],
        "columns": len(found["columns"]),
        "repeated ids": found["repeated_ids"],
    }
    if found["vectors"]:
        tiles["equal vectors"] = sum(about["duplicates"] for about in found["vectors"].values())
    columns = [(name, kind, found["nulls"].get(name, 0)) for name, kind in found["columns"].items()]
    sections = []
    for name, about in found["vectors"].items():
        sample = samples.get(name, pl.DataFrame())
        if len(sample) > 1:
            sections += _vector_sections(name, sample, label_column, about["norms"] is not None)
        facts = Section(f"Vectors: {name}", table=_facts(about), header=("figure", "value"))
        sections.append(facts)
    sections.append(Section("Columns", table=columns, header=("column", "type", "nulls")))
    dims = {name: about["dim"] for name, about in found["vectors"].items()}
    models = {about["model"] for about in found["vectors"].values() if about["model"]}
    about = {
        "model": ", ".join(sorted(models)),
        "dimension": ", ".join(
            f"{dim:,}" if len(dims) == 1 else f"{dim:,} ({name})" for name, dim in dims.items()
        ),
    }
    return render_page("Vectors", run, tiles, sections, about=about)


def _vector_sections(
    name: str, sample: pl.DataFrame, label_column: str, has_norms: bool
) -> list[Section]:
    raw = np.nan_to_num(sample[name].to_numpy().astype(np.float64), posinf=0, neginf=0)
    vectors, figures = unit_vectors(raw), []
    cosines = np.clip(vectors @ vectors.T, -1, 1)
    if has_norms:
        norms = histogram(np.linalg.norm(raw, axis=1), "norm", unit="vectors")
        figures.append(Figure("Norms", norms, f"of {len(sample):,} vectors, a sample"))
    figures.append(cosines_figure(cosines))
    if label_column + LENGTH in sample.columns:
        figures.append(lengths_figure(sample, label_column, "rows"))
    return [
        dataclasses.replace(vectors_map(sample, vectors, label_column), title=f"Map: {name}"),
        Section(f"Norms and cosines: {name}", figures=figures),
        nearest_texts(cosines, sample, label_column),
    ]


def _facts(about: dict[str, Any]) -> list[tuple[str, Any]]:
    norms = {f"{name} norm": f"{value:.4f}" for name, value in (about["norms"] or {}).items()}
    facts = {**about, "norms": None, **norms}
    return [
        (name.replace("_", " "), value) for name, value in facts.items() if value not in ("", None)
    ]


@dataclasses.dataclass(frozen=True)
class Answer:
    """Hold what a table answers to a question.

    Attributes:
      hits: (cosine, id, text), best first.
      vector: of the question, float32 (dim,).
      rows: of the table.
      sample: some of them, with id, text and embedding; no columns if none were requested.
    """

    hits: Sequence[tuple[float, Any, str]]
    vector: np.ndarray
    rows: int
    sample: pl.DataFrame


def answer_page(run: Run, question: str, answer: Answer) -> str:
    """Render the page of an answer: the hits, and where they are in a sample of the table."""
    hits, sample = answer.hits, answer.sample
    best = f"{hits[0][0]:.4f}" if hits else None
    tiles = {"rows": answer.rows, "shown": len(hits), "best cosine": best}
    examples = [
        Example(f"{cosine:.4f}", [(str(id_), escape(shorten(text, TEXT_SHOWN)))])
        for cosine, id_, text in hits
    ]
    sections = [Section("Nearest texts", question, examples=examples)]
    if len(sample) > 1:
        sections += _around(question, answer)
    about = {"input": run.parameters.get("duckdb"), "dimension": len(answer.vector)}
    return render_page("Search", run, tiles, sections, about=about)


def _around(question: str, answer: Answer) -> list[Section]:
    """Show the cosines of a sample with the question, and a map of both."""
    sample, hits, asked = answer.sample, answer.hits, unit_vectors(answer.vector[None])
    vectors = unit_vectors(sample["embedding"].to_numpy())
    cosines = (vectors @ asked[0]).round(4)
    last = hits[-1][0] if hits else None
    mark = None if last is None else Threshold(last, "last shown", "at least as near", "the others")
    chart = histogram(cosines, "cosine with the question", mark, "rows")
    figures = [Figure("Cosines", chart, f"of {len(sample):,} rows, a sample")]
    ids = {str(id_) for _, id_, _ in hits}
    states = ["shown" if str(id_) in ids else "sample" for id_ in sample["id"].to_list()]
    # the question is one more point; its id is not one of the table
    one = pl.DataFrame({"id": ["question"], "text": [question]})
    rows = pl.concat([sample.select(pl.col("id").cast(pl.String), "text"), one])
    columns: dict[str, Sequence[Any]] = {
        "found": [*states, "question"],
        "cosine": [*cosines.tolist(), 1.0],
    }
    shown = vectors_map(rows, np.concatenate([vectors, asked]), "text", "id", columns)
    return [shown, Section("Scores", figures=figures)]


def texts_page(
    run: Run,
    title: str,
    texts: Mapping[str, Sequence[str]],
    examples: Sequence[Sequence[tuple[str, str]]],
) -> str:
    """Render the page of extracted texts.

    Args:
      run: what it reports on.
      title: of the page.
      texts: by kind.
      examples: (name, text) of those to show together.
    """
    figures = []
    for name, some in texts.items():
        chart = log_histogram(np.array([*map(len, some)]), "characters")
        figures.append(Figure(f"Lengths, {name}", chart, f"of {len(some):,}"))
    shown = [
        Example("", [(name, escape(shorten(text, TEXT_SHOWN))) for name, text in together])
        for together in examples
    ]
    sections = [Section("Lengths", figures=figures), Section("Examples", examples=shown)]
    return render_page(title, run, {name: len(some) for name, some in texts.items()}, sections)


def model_page(
    run: Run,
    weights: Sequence[tuple[str, str, str, int, int]],
    texts: Sequence[str],
    vectors: np.ndarray,
) -> str:
    """Render the page of a converted model.

    Args:
      run: what it reports on.
      weights: (name, shape, dtype, tensors, parameters) of each kind.
      texts: to show how the model compares them.
      vectors: of these texts, of length 1.
    """
    parameters = sum(count for *_, count in weights)
    tiles = {
        "parameters": f"{parameters / 1e6:,.1f} M",
        "dimensions": vectors.shape[1],
        "texts": len(texts),
    }
    sample = pl.DataFrame({"id": [f"text {i}" for i in range(1, len(texts) + 1)], "text": texts})
    cosines = np.clip(vectors @ vectors.T, -1, 1)
    header = ("name", "shape", "type", "tensors", "parameters")
    sections = [
        nearest_texts(cosines, sample, "text"),
        Section("Scores", figures=[cosines_figure(cosines)]),
        vectors_map(sample, vectors, "text"),
        Section("Weights", "* is the number of a layer.", table=weights, header=header),
    ]
    about = {"model": run.parameters.get("output"), "dimension": vectors.shape[1]}
    return render_page("Converted model", run, tiles, sections, about=about)
