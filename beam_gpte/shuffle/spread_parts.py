"""List the parts of a source once, and read each of them on any worker.

    Once --> List --> (number, part) --> GroupByKey --> ReadParts --> rows

What meets: nothing; each part has a number of its own, so that any worker may get it. No other
shuffle can spread parts, since they come before the first row.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows


@dataclasses.dataclass(eq=False)
class SpreadParts(beam.PTransform):
    """List the parts of a source when the job runs, for `ReadParts`.

    `beam.Reshuffle` takes four steps more, to add random keys and to keep times.

    Attributes:
      find: returns the parts, such as the paths of files.
      kind: the type of a part.
    """

    find: Callable[[], Iterable[Any]]
    kind: Any

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection:
        """Return (number, the part)."""
        numbered: Any = tuple[int, self.kind]  # type: ignore[name-defined]
        parts = beam.FlatMap(_numbered, self.find).with_output_types(numbered)
        return root | "Once" >> beam.Impulse() | "List" >> parts | "Spread" >> beam.GroupByKey()


class ReadParts(beam.DoFn):
    """Read the parts that `SpreadParts` listed; a subclass implements `read`."""

    def read(self, part: Any) -> Iterable[Any]:
        """Read a part; return its rows, and tagged outputs."""
        raise NotImplementedError

    def process(self, parts: tuple[int, Iterable[Any]]) -> Iterator[Any]:
        """Read each part."""
        for part in parts[1]:
            for output in self.read(part):
                yield from_source(output)


class _ReadWith(ReadParts):
    def __init__(self, function: Callable[..., Iterable[Any]], arguments: tuple) -> None:
        self._function = function
        self._arguments = arguments

    def read(self, part: Any) -> Iterable[Any]:
        return self._function(part, *self._arguments)


def read_parts(function: Callable[..., Iterable[Any]], *arguments: Any) -> beam.ParDo:
    """Read the parts that `SpreadParts` listed by a function.

    Args:
      function: returns the rows of a part.
      *arguments: of the function, after the part.
    """
    return beam.ParDo(_ReadWith(function, arguments))


def from_source(output: Any) -> Any:
    """Give a row or tagged output the time of those of a source; grouping sets it to the end."""
    if isinstance(output, TaggedOutput):
        return TaggedOutput(output.tag, GlobalWindows.windowed_value(output.value))
    return GlobalWindows.windowed_value(output)


def _numbered(_: bytes, find: Callable[[], Iterable[Any]]) -> Iterator[tuple[int, Any]]:
    return enumerate(find())
