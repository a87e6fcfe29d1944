"""Plan the search of queries among documents: `vectors | PlanQueries(step)`."""

import dataclasses
import logging
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsList

from beam_gpte.core.errors import InputError
from beam_gpte.core.metadata import VectorMetadata, check_same_vectors
from beam_gpte.core.vectors.cells import fit_cells
from beam_gpte.elements.block import Block
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.neighbors import plan as neighbor_plan
from beam_gpte.neighbors.plan import NeighborPlan, Search, Surveys, SurveySides, uses_cells

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class PlanQueries(beam.PTransform):
    """Plan a search of blocks with `VECTOR`, which are not centered.

    Attributes:
      step: the transform that the user wrote.
      search: see `neighbors.plan.make_plan`.
      after: a side input to wait for, such as that of ids which were found unique.
    """

    step: str
    search: Search = "exact"
    after: AsList | None = None

    def expand(self, vectors: beam.PCollection[Block]) -> beam.PCollection[NeighborPlan]:
        """Return the plan of queries (the sources) and documents (the targets), once."""
        survey = SurveySides(self.step, ("queries", "documents"), self.search)
        make = FromSideInputs(
            NeighborPlan,
            _make_plan,
            vectors | "Survey" >> survey,
            self.step,
            self.search,
            *(() if self.after is None else (self.after,)),
        )
        return vectors.pipeline | "MakePlan" >> make


def _make_plan(surveys: Surveys, step: str, search: Search, *_: Any) -> NeighborPlan:
    queries, documents = surveys
    dims = [len(side.total) for side in (queries, documents) if side.total is not None]
    if len(set(dims)) > 1:
        raise InputError(
            f"{step}: queries of {dims[0]} dimensions, documents of {dims[1]}; "
            "embed both with the same model"
        )
    if queries.metadata is not None and documents.metadata is not None:
        check_one_space(queries.metadata, documents.metadata, step)
    rows, dim = (queries.rows, documents.rows), dims[0] if dims else 1
    shards = [max(1, -(-count // neighbor_plan.SHARD_ROWS)) for count in rows]
    plan = NeighborPlan(
        rows,
        np.zeros((2, dim), np.float32),
        (shards[0], shards[1]),
        documents.metadata,
        0,
        id_types=(queries.id_types, documents.id_types),
    )
    if all(rows) and uses_cells(search, rows, dim):
        samples = queries.sample[0][1], documents.sample[0][1]
        cells = fit_cells(samples, rows, neighbor_plan.SHARD_ROWS)
        plan = dataclasses.replace(plan, cells=cells)
    _LOGGER.info("%d queries, %d documents, search=%s: %s", *rows, search, plan.search_settings())
    return plan


def check_one_space(queries: VectorMetadata, documents: VectorMetadata, step: str) -> None:
    """Refuse two models, but not two prompts or routes of one, which are common for queries.

    Two routes may pool in two ways. Vectors that were mapped into the space of the other side's
    model are of one space with it.
    """
    routed = queries.route != documents.route and "" not in (queries.route, documents.route)
    pooled = () if routed else ("pooling",)
    same = ("model", "dim", "normalized", "quantization", "postprocess", *pooled)
    mapped = documents.mapped != queries.mapped and "" in (documents.mapped, queries.mapped)
    if (mapped or routed or queries.prompt != documents.prompt) and all(
        getattr(queries, name) == getattr(documents, name) for name in same
    ):
        return
    check_same_vectors(queries, documents, f"{step} queries and documents")
