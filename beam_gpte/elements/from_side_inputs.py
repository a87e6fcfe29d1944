"""One element out of side inputs: `pipeline | FromSideInputs(dict, report, AsSingleton(plan), AsSingleton(cut))`."""

from collections.abc import Callable
from typing import Any

import apache_beam as beam


class FromSideInputs(beam.PTransform):
    """Gives the one element that `make` makes of `arguments`, side inputs and settings.

    The other way, to let one of these collections be the main input, fails now and then if that collection is a side input
    of another step too. Beam 2.77's in-process runner then takes the step that reads the collection for the one that makes
    it (`sort_stages`), in an order that is chance, and the side input comes out empty: one in 20 runs of a mining of scopes
    and of what they leave.
    """

    def __init__(self, kind: type, make: Callable[..., Any], *arguments: Any) -> None:
        super().__init__()
        self._kind = kind
        self._make = make
        self._arguments = arguments

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        make = beam.Map(_make, self._make, *self._arguments).with_output_types(self._kind)
        return begin | "Once" >> beam.Impulse() | "Make" >> make


def _make(_: bytes, make: Callable[..., Any], *arguments: Any) -> Any:
    return make(*arguments)
