"""Assign rows to centers, and describe them by their clusters.

rows, centers --> with_nearest --> assigned rows --> figures --> Clusters
assigned rows, centers, Clusters, ids of a sample --> Describe --> rows, sample
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from beam_gpte.core.columns import ID
from beam_gpte.core.vectors.centers import DISTANCE_UNITS, nearest_centers
from beam_gpte.elements.added_columns import AddedColumns
from beam_gpte.elements.block import Block, with_hidden
from beam_gpte.neighbors.clusters.figures import CLUSTER_OF, UNITS_AWAY, Clusters, outlier_scores
from beam_gpte.neighbors.clusters.fit_centers import Centers
from beam_gpte.shuffle.spill import whole_rows
from beam_gpte.shuffle.unique_ids import find_ids, id_array, like_ids

CLUSTER = "cluster"  # int32
DISTANCE = "distance"  # float32: the cosine distance to the center
REPRESENTATIVE = "representative"  # the id of the row nearest to the center
OUTLIER_SCORE = "outlier_score"  # float32


def with_nearest(block: Block, centers: Centers, embedding_column: str) -> Block:
    """Add `CLUSTER_OF` and `UNITS_AWAY`: the nearest center of each row, and the distance to it."""
    vectors = centers.vectors_of(block, embedding_column)
    cluster, away = nearest_centers(vectors, centers.vectors)
    block = with_hidden(block, pa.field(CLUSTER_OF, pa.int64()), pa.array(cluster))
    return with_hidden(block, pa.field(UNITS_AWAY, pa.int64()), pa.array(away))


@dataclasses.dataclass(frozen=True)
class Describe:
    """Yield rows with what is known of their cluster, and those of the sample once more.

    Attributes:
      id_column: of the rows.
      embedding_column: of the vectors.
      added: names of the columns that rows get.
    """

    id_column: str
    embedding_column: str
    added: AddedColumns

    def __call__(
        self, block: Block, centers: Centers, clusters: Clusters, chosen: list[Block]
    ) -> Iterator[Any]:
        """Describe the assigned rows of a block.

        Args:
          block: what `with_nearest` gives.
          centers: that rows are assigned to.
          clusters: those of the centers that have rows.
          chosen: ids of the sample, in one block or none.
        """
        number = clusters.numbers[block.column(CLUSTER_OF).to_numpy()]
        distance = block.column(UNITS_AWAY).to_numpy() / DISTANCE_UNITS
        scores = outlier_scores(*self._to_large(block, number, distance, centers, clusters))
        kind = block.schema.field(self.id_column).type
        named = like_ids(clusters.representatives.take(pa.array(number)), kind)
        rows = whole_rows(block).without_columns([CLUSTER_OF, UNITS_AWAY])
        rows = self.added.add(rows, CLUSTER, pa.array(number.astype(np.int32)))
        rows = self.added.add(rows, DISTANCE, pa.array(distance.astype(np.float32)))
        rows = self.added.add(rows, REPRESENTATIVE, named)
        rows = self.added.add(rows, OUTLIER_SCORE, pa.array(scores))
        yield rows
        if chosen:
            ids = id_array(block, self.id_column)
            sampled = rows.filter(find_ids(ids, chosen[0].column(ID), self.id_column).is_valid())
            if sampled:
                yield TaggedOutput("sample", sampled)

    def _to_large(
        self,
        block: Block,
        number: np.ndarray,
        distance: np.ndarray,
        centers: Centers,
        clusters: Clusters,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Give the distance of rows to the nearest large cluster, and the mean distance there."""
        small = clusters.small
        at = np.flatnonzero(small[number])
        if len(at):
            large = np.flatnonzero(~small)
            rows = block.take(at)
            vectors = centers.vectors_of(rows, self.embedding_column)
            nearest, away = nearest_centers(vectors, centers.vectors[clusters.centers[large]])
            number, distance = number.copy(), distance.copy()
            number[at], distance[at] = large[nearest], away / DISTANCE_UNITS
        return distance, clusters.mean[number]
