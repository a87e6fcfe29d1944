"""Report a decontamination as one dict, with a table by benchmark."""

from typing import Any

import numpy as np

from beam_gpte.decontamination.benchmark_index import BenchmarkIndex
from beam_gpte.decontamination.calibrate import PassageScores, Threshold
from beam_gpte.decontamination.figures import Figures

EDGES = 20  # of the histogram of best scores: 0.05 wide


def make_report(
    settings: dict[str, Any],
    index: BenchmarkIndex,
    figures: Figures,
    scores: PassageScores | None,
    threshold: Threshold | None,
) -> dict[str, Any]:
    """Make the report; see `Decontamination`.

    Args:
      settings: of the transform.
      index: the items.
      figures: of all documents.
      scores: of all passages; None where meaning was not searched.
      threshold: of these.
    """
    report = {
        **settings,
        "documents": figures.documents,
        "removed": figures.removed,
        "cut": figures.cut,
        "kept": figures.documents - figures.removed,
        "matches": figures.matches,
        "benchmarks": _table(index, figures),
    }
    if scores is not None and threshold is not None:
        report |= {
            "passages": scores.passages,
            "threshold": round(threshold.cosine, 6),
            "threshold_from": threshold.source,
            "search_recall": 1.0,  # every passage is compared with every item
            "best_scores": _histogram(scores),
        }
        if index.ngrams is not None:
            recall = round(figures.copies_found / figures.copies, 6) if figures.copies else None
            report |= {"copies": figures.copies, "recall_of_copies": recall}
    return report


def _table(index: BenchmarkIndex, figures: Figures) -> list[dict[str, Any]]:
    names = np.array(index.names(), object)
    short = index.too_short() if index.ngrams is not None else np.zeros(len(names), bool)
    words, meaning = (
        np.isin(np.arange(len(names)), list(found))
        for found in (figures.by_words, figures.by_meaning)
    )
    documents = dict(figures.of_benchmarks)
    table = []
    for name in sorted(set(names)):
        of = names == name
        table.append(
            {
                "benchmark": name,
                "items": int(of.sum()),
                "found": int((of & (words | meaning)).sum()),
                "found_by_ngram": int((of & words).sum()),
                "found_by_meaning": int((of & meaning).sum()),
                "found_by_both": int((of & words & meaning).sum()),
                "too_short_for_ngrams": int((of & short).sum()),
                "documents": documents.get(name, 0),
            }
        )
    return table


def _histogram(scores: PassageScores) -> list[list[float]]:
    """Count passages by best score: [lower edge, passages] each."""
    edges = np.linspace(0, 1, EDGES, endpoint=False)
    bins = np.clip((scores.best.middles * EDGES).astype(int), 0, EDGES - 1)
    counts = np.bincount(bins, scores.best.counts, minlength=EDGES).astype(int)
    return [list(pair) for pair in zip(edges.round(2).tolist(), counts.tolist(), strict=True)]
