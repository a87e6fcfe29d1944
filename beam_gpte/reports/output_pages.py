"""Pages about what was written: `stream_page(run, ...)`, `vectors_page`, `answer_page`, `texts_page`, `model_page`.

What they show is a sample of the output (`sample_vectors`), or what the program has at hand.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import polars as pl

from beam_gpte.core.columns import DUPLICATE_OF, SCORE
from beam_gpte.dedup.report import TEXT_SHOWN
from beam_gpte.reports.charts import histogram, log_histogram
from beam_gpte.reports.page import Example, Figure, Run, Section, render_page
from beam_gpte.reports.run_pages import (
    EXAMPLES,
    cosines_of,
    cut_off,
    lengths_of,
    map_of,
    nearest_texts,
    pair_of,
    rejected_rows,
    unit,
)
from beam_gpte.reports.sample import LENGTH

_KEPT_TEXT = "_kept_text"


def stream_page(
    run: Run,
    summary: dict[str, Any],
    kept: pl.DataFrame,
    removed: pl.DataFrame,
    id_column: str,
    text: str,
    embedding: str,
) -> str:
    """`kept` and `removed`: samples of all that is in the output now, also of former runs."""
    tiles = {
        "files": summary["files_read"],
        "rows": summary["rows_read"],
        "texts": summary["texts"],
        "texts per second": round(summary["texts"] / max(summary["seconds"], 1e-9), 1),
        "removed": summary["removed"],
        "rejected": summary["rejected"],
    }
    sections = []
    parts = [(name, rows) for name, rows in (("kept", kept), ("removed", removed)) if len(rows)]
    if parts:
        figures = [lengths_of(rows, text, f"{name} rows of the output") for name, rows in parts]
        if len(removed):
            scores = histogram(removed[SCORE].to_numpy(), "score", "score")
            figures.append(
                Figure(
                    "Scores", scores, f"of {len(removed):,} removed rows of the output, a sample"
                )
            )
        sections.append(Section("Lengths and scores", figures=figures))
    if len(kept) and len(removed):
        sections += _repeated(kept, removed, id_column, text)
    both = (
        pl.concat([rows for _, rows in parts], how="diagonal_relaxed") if parts else pl.DataFrame()
    )
    if len(both) > 1:
        vectors, is_kept = unit(both[embedding].to_numpy()), np.arange(len(both)) < len(kept)
        if len(kept) > 1:
            cosines = np.clip(vectors[: len(kept)] @ vectors[: len(kept)].T, -1, 1)
            sections.append(nearest_texts(cosines, kept, text))
        sections.append(map_of(both, vectors, [("kept", is_kept), ("removed", ~is_kept)], text))
    return render_page(
        "Embedded stream", run, tiles, [*sections, *rejected_rows(summary["reasons"])]
    )


def _repeated(
    kept: pl.DataFrame, removed: pl.DataFrame, id_column: str, text: str
) -> list[Section]:
    known = kept.select(pl.col(id_column).cast(pl.String), pl.col(text).alias(_KEPT_TEXT))
    named = removed.with_columns(pl.col(DUPLICATE_OF).cast(pl.String))
    found = named.join(known, left_on=DUPLICATE_OF, right_on=id_column).sort(SCORE, DUPLICATE_OF)
    examples = [
        pair_of(
            f"score {row[SCORE]:.4f}",
            (row[DUPLICATE_OF], row[_KEPT_TEXT]),
            (str(row[id_column]), row[text]),
        )
        for row in found.unique(text, keep="first", maintain_order=True)
        .head(EXAMPLES)
        .iter_rows(named=True)
    ]
    note = "Removed rows of the sample, and the kept rows that they repeat; the least scores first."
    return [Section("Repeated texts", note, examples=examples)] if examples else []


def vectors_page(
    run: Run, found: dict[str, Any], samples: Mapping[str, pl.DataFrame], label: str
) -> str:
    """What `survey` found, and a sample of each column of vectors; `label`: the column that says what a point is."""
    tiles = {
        "rows": found["rows"],
        "columns": len(found["columns"]),
        "repeated ids": found["repeated_ids"],
        **(
            {"equal vectors": sum(about["duplicates"] for about in found["vectors"].values())}
            if found["vectors"]
            else {}
        ),
    }
    columns = [(name, kind, found["nulls"].get(name, 0)) for name, kind in found["columns"].items()]
    sections = [Section("Columns", table=columns, head=("column", "type", "nulls"))]
    for name, about in found["vectors"].items():
        sections.append(Section(f"Vectors: {name}", table=_facts(about), head=("figure", "value")))
        sample = samples.get(name, pl.DataFrame())
        if len(sample) > 1:
            raw = np.nan_to_num(sample[name].to_numpy().astype(np.float64), posinf=0, neginf=0)
            vectors, figures = unit(raw), []
            cosines = np.clip(vectors @ vectors.T, -1, 1)
            if about["norms"] is not None:
                norms = histogram(np.linalg.norm(raw, axis=1), "norm", "norm")
                figures.append(Figure("Norms", norms, f"of {len(sample):,} vectors, a sample"))
            figures.append(cosines_of(cosines))
            if label + LENGTH in sample.columns:
                figures.append(lengths_of(sample, label, "rows"))
            sections.append(Section(f"Norms and cosines: {name}", figures=figures))
            sections += [
                nearest_texts(cosines, sample, label),
                map_of(sample, vectors, [("rows", np.ones(len(sample), bool))], label),
            ]
    return render_page("Vectors", run, tiles, sections)


def _facts(about: dict[str, Any]) -> list[tuple[str, Any]]:
    norms = {f"{name} norm": f"{value:.4f}" for name, value in (about["norms"] or {}).items()}
    facts = {**about, "norms": None, **norms}
    return [
        (name.replace("_", " "), value) for name, value in facts.items() if value not in ("", None)
    ]


def answer_page(
    run: Run,
    question: str,
    rows: int,
    hits: Sequence[tuple[float, Any, str]],
    sample: pl.DataFrame,
    vector: np.ndarray,
) -> str:
    """`hits`: (cosine, id, text), best first; `sample`: rows of the table with id, text and embedding; `vector`: (dim,)."""
    tiles = {"rows": rows, "shown": len(hits), "best cosine": f"{hits[0][0]:.4f}" if hits else None}
    examples = [
        Example(f"{cosine:.4f}", [(str(key), escape(cut_off(text, TEXT_SHOWN)))])
        for cosine, key, text in hits
    ]
    sections = [Section("Nearest texts", question, examples=examples)]
    if len(sample) > 1:
        vectors = unit(sample["embedding"].to_numpy())
        mark = (hits[-1][0], "the last that is shown") if hits else None
        scores = histogram(
            vectors @ unit(vector[None])[0], "cosine with the question", "cosine", mark
        )
        sections.append(
            Section(
                "Scores", figures=[Figure("Cosines", scores, f"of {len(sample):,} rows, a sample")]
            )
        )
        shown = sample["id"].is_in([key for _, key, _ in hits]).to_numpy()
        sections.append(map_of(sample, vectors, [("sample", ~shown), ("nearest", shown)], "text"))
    return render_page("Search", run, tiles, sections)


def texts_page(
    run: Run,
    title: str,
    texts: Mapping[str, Sequence[str]],
    examples: Sequence[Sequence[tuple[str, str]]],
) -> str:
    """`texts`: by kind; `examples`: of each (name, text) that belong together."""
    figures = [
        Figure(
            f"Lengths, {name}",
            log_histogram(np.array([*map(len, some)]), "characters", "characters"),
            f"of {len(some):,}",
        )
        for name, some in texts.items()
    ]
    shown = [
        Example("", [(name, escape(cut_off(text, TEXT_SHOWN))) for name, text in one])
        for one in examples
    ]
    tiles = {name: len(some) for name, some in texts.items()}
    return render_page(
        title,
        run,
        tiles,
        [Section("Lengths", figures=figures), Section("Examples", examples=shown)],
    )


def model_page(
    run: Run,
    weights: Sequence[tuple[str, str, str, int, int]],
    texts: Sequence[str],
    vectors: np.ndarray,
) -> str:
    """`weights`: (name, shape, dtype, tensors, numbers) of each kind; `texts` and their unit `vectors` show what it does."""
    parameters = sum(numbers for *_, numbers in weights)
    tiles = {
        "parameters": f"{parameters / 1e6:,.1f} M",
        "dimensions": vectors.shape[1],
        "texts": len(texts),
    }
    sample = pl.DataFrame({"text": texts})
    cosines = np.clip(vectors @ vectors.T, -1, 1)
    sections = [
        nearest_texts(cosines, sample, "text"),
        Section("Scores", figures=[cosines_of(cosines)]),
        map_of(sample, vectors, [("texts", np.ones(len(texts), bool))], "text"),
        Section(
            "Weights",
            "* is the number of a layer.",
            table=weights,
            head=("name", "shape", "type", "tensors", "numbers"),
        ),
    ]
    return render_page("Converted model", run, tiles, sections)
