"""Make one element from side inputs.

pipeline | FromSideInputs(dict, report, AsSingleton(plan), AsSingleton(threshold))
"""

from collections.abc import Callable
from typing import Any

import apache_beam as beam


class FromSideInputs(beam.PTransform):
    """Return the one element that a function makes of side inputs and settings.

    The alternative, one of these collections as the main input, fails now and then if that
    collection is a side input of another step too. Beam 2.77's in-process runner then mistakes the
    step that reads the collection for the one that makes it (`sort_stages`), in an order that is
    random, and the side input is empty: in one of 20 runs of a mining in scopes and then of
    unmatched rows.
    """

    def __init__(self, kind: type, make: Callable[..., Any], *arguments: Any) -> None:
        """Configure the element.

        Args:
          kind: its type.
          make: is called once with the arguments.
          *arguments: side inputs and plain values.
        """
        super().__init__()
        self._kind = kind
        self._make = make
        self._arguments = arguments

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        """Call the function once, at an impulse."""
        make = beam.Map(_make, self._make, *self._arguments).with_output_types(self._kind)
        return begin | "Once" >> beam.Impulse() | "Make" >> make


def _make(_: bytes, make: Callable[..., Any], *arguments: Any) -> Any:
    return make(*arguments)
