"""Write the row counts of several collections, and reports, to one JSON file.

rows ----> (name, reason), rows -> sums --+
                                          +--> one object --> the file
reports -> (name, report) ----------------+

What meets in Sums: the counts of all collections by name and reason, known only after the last
step, so that no other shuffle carries them.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsList

from beam_gpte.core.columns import REJECT_REASON, check_visible
from beam_gpte.core.errors import InputError, naming
from beam_gpte.core.python_values import json_value
from beam_gpte.elements.block import Block
from beam_gpte.elements.frames import TakesFrames
from beam_gpte.elements.row_kinds import row_fields
from beam_gpte.files.folders import output_path
from beam_gpte.files.json_values import write_json
from beam_gpte.sinks.commit import barrier
from beam_gpte.sinks.panes import is_whole
from beam_gpte.sinks.runs.outputs import FILE, Output, add_output, check_outputs, place_key

REASONS = "reasons"  # rejected rows by reason, beside the collections' own names
REPORT = "report"  # the field of a report that was converted to a row

Counted = tuple[tuple[str, str | None], int]
Report = tuple[str, dict]


@dataclasses.dataclass(eq=False)
class WriteSummary(TakesFrames):
    """Write one JSON object about bounded collections; ``{name: rows, ...} | WriteSummary(path)``.

    Gives the object. It has, under each name, the number of rows or, for `reports`, the list of
    reports; and under ``reasons`` the number of rejected rows by reason, up to the first colon. The
    file appears complete or not at all.

    Attributes:
      path: the file, local or on any Beam file system.
      reports: the names of the collections whose elements are reports (mappings), not rows.
      commit_after: the file is not written before this collection is complete, or if computing it
        fails.
    """

    path: str
    reports: tuple[str, ...] = ()
    commit_after: beam.PCollection | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.path:
            raise InputError("path is empty; name the file to write the summary to")

    def expand(self, inputs: Any) -> beam.PCollection[dict]:
        """Write the summary of a mapping of collections, or of one collection named "rows"."""
        collections = inputs if isinstance(inputs, dict) else {"rows": inputs}
        missing = [name for name in self.reports if name not in collections]
        if missing:
            raise InputError(
                f"no collection {missing[0]!r}; the collections are {', '.join(collections)}"
            )
        _check_whole(collections)
        pipeline = next(iter(collections.values())).pipeline
        place = f"file {self.path}", place_key(FILE, self.path)
        output = Output(*place, None, True, self.commit_after)
        with naming(WriteSummary.__name__):
            check_outputs(pipeline, output)
            path = output_path(self.path)
        counts = [
            rows | f"Count_{name}" >> beam.FlatMap(_count, name).with_output_types(Counted)
            for name, rows in collections.items()
            if name not in self.reports
        ]
        named_reports = [
            collections[name] | f"Read_{name}" >> beam.Map(_report, name).with_output_types(Report)
            for name in self.reports
        ]
        sums = (
            counts | "Counts" >> beam.Flatten(pipeline=pipeline) | "Sums" >> beam.CombinePerKey(sum)
        )
        reports = named_reports | "Reports" >> beam.Flatten(pipeline=pipeline)
        with naming(type(self).__name__):
            waits = [] if self.commit_after is None else [barrier(self.commit_after)]
        is_report = {name: name in self.reports for name in collections}
        write = beam.Map(_write, is_report, AsList(sums), AsList(reports), *waits)
        written = (
            pipeline
            | "Path" >> beam.Create([path], reshuffle=False)
            | "Write" >> write.with_output_types(dict)
        )
        add_output(pipeline, output, written)
        return written


def _check_whole(collections: dict[str, beam.PCollection]) -> None:
    """Refuse what is never complete, or complete only in parts: its rows would not be counted."""
    for name, rows in collections.items():
        if not is_whole(rows):
            raise InputError(
                f"{name}: WriteSummary counts whole collections, not a stream or windows; leave it "
                "out, or, if it is bounded, put beam.WindowInto(GlobalWindows()) before"
            )


def _count(element: Any, name: str) -> Iterator[Counted]:
    is_arrow = isinstance(element, Block | pa.Table | pa.RecordBatch)
    with naming(WriteSummary.__name__):
        check_visible(element.schema.names if is_arrow else _fields(element))
    if not is_arrow:
        fields = _fields(element)
        reasons = [fields.get(REJECT_REASON)]
    elif REJECT_REASON in element.schema.names:
        reasons = element.column(REJECT_REASON).to_pylist()
    else:
        yield (name, None), len(element)
        return
    shortened = (None if reason is None else str(reason).split(":")[0] for reason in reasons)
    for reason, rows in Counter(shortened).items():
        yield (name, reason), rows


def _fields(row: Any) -> dict[str, Any]:
    return vars(row) if dataclasses.is_dataclass(row) else row_fields(row)


def _report(element: Any, name: str) -> Report:
    fields = row_fields(element)
    return name, json.loads(fields[REPORT]) if set(fields) == {REPORT} else json_value(fields)


def _write(
    path: str, is_report: dict[str, bool], sums: list[Counted], reports: list[Report], *barrier: Any
) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for name in is_report:
        if is_report[name]:
            summary[name] = sorted((report for of, report in reports if of == name), key=json.dumps)
        else:
            summary[name] = sum(rows for (of, _), rows in sums if of == name)
    reasons: Counter[str] = Counter()
    for (_name, reason), rows in sums:
        if reason is not None:
            reasons[reason] += rows
    if reasons:
        summary[REASONS] = dict(sorted(reasons.items()))
    write_json(path, summary)
    return summary
