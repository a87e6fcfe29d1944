"""Name targets' documents by those of the sources: `pairs | Partners(step)`, a side input."""

import dataclasses
from collections.abc import Iterable

import apache_beam as beam
from apache_beam.pvalue import AsIter, AsSingleton

from beam_gpte.core.columns import SIDE_DOCUMENTS
from beam_gpte.core.errors import InputError, InStep, shown
from beam_gpte.core.text.normalize import value_texts
from beam_gpte.elements.block import Block
from beam_gpte.elements.checks import check_columns
from beam_gpte.elements.from_side_inputs import FromSideInputs
from beam_gpte.elements.rows import columns_as_blocks
from beam_gpte.elements.wiring import named_collections

Names = tuple[str | None, str | None]  # of a source's and a target's document, as text


@dataclasses.dataclass(eq=False)
class Partners(beam.PTransform):
    """Collect pairs of documents: a dict of the sources' names by the targets', as text.

    Attributes:
      step: the transform that the user wrote.
    """

    step: str

    @named_collections
    def expand(self, pairs: beam.PCollection) -> AsSingleton:
        """Return the side input."""
        step = f"{self.step} documents"
        names = columns_as_blocks(pairs, SIDE_DOCUMENTS, step=step) | "Names" >> beam.FlatMap(
            _names, step
        ).with_output_types(tuple[str, str])
        make = FromSideInputs(dict, InStep(step, partners_of), AsIter(names))
        return AsSingleton(pairs.pipeline | "Dict" >> make)


def _names(block: Block, step: str) -> Iterable[Names]:
    check_columns(block, SIDE_DOCUMENTS, step)
    source, target = (value_texts(block.column(name)).to_pylist() for name in SIDE_DOCUMENTS)
    return list(zip(source, target, strict=True))


def partners_of(pairs: Iterable[Names]) -> dict[str, str]:
    """Name sources' documents by the targets' that translate them.

    Raises:
      InputError: a name is null, or a document is in two pairs.
    """
    found: dict[str, str] = {}
    sources: dict[str, str] = {}
    for source, target in sorted(set(pairs), key=str):
        for column, name in zip(SIDE_DOCUMENTS, (source, target), strict=True):
            if name is None:
                raise InputError(f"{column} is null in a pair; leave such pairs out")
        assert source is not None
        assert target is not None
        for side, name, known in ((0, source, sources), (1, target, found)):
            if name in known:
                raise InputError(
                    f"{SIDE_DOCUMENTS[side]} {shown(name)} is in two pairs; keep the best of them"
                )
        found[target], sources[source] = source, target
    return found
