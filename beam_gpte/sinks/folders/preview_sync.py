"""Count what a sync would change, before the model has run.

    rows without vectors --> staged in a scratch folder --> compared with the folder --> `Counts`

What meets in Sum: the counts of all files.
"""

import dataclasses
from collections.abc import Iterable

import apache_beam as beam

from beam_gpte.elements.block import Block
from beam_gpte.sinks.final_names import Destination
from beam_gpte.sinks.folders.commit_rewritten import Counts, count_changes
from beam_gpte.sinks.folders.replace_options import ReplaceOptions
from beam_gpte.sinks.folders.sync_rows import Compared, Decided, FindChanges
from beam_gpte.sinks.parquet_files import ParquetFileWriter
from beam_gpte.sinks.staging import StagedFile, StageFiles


@dataclasses.dataclass(eq=False)
class PreviewSync(beam.PTransform):
    """Count the rows that a sync would add, change, remove, leave or keep, as counters of the job.

    Attributes:
      folder: with the previous rows; absolute.
      scratch: a folder for the new ones.
      compared: what of the rows is compared.
      options: columns and rejects.
    """

    folder: str
    scratch: str
    compared: Compared
    options: ReplaceOptions

    def expand(self, blocks: beam.PCollection[Block]) -> beam.PCollection[Counts]:
        """Stage the rows, compare them, and return the counts."""
        step = type(self).__name__
        temporary = Destination.new(self.scratch, "parquet").temporary
        stage = StageFiles(step, temporary, ParquetFileWriter)
        staged = blocks | "Stage" >> beam.ParDo(stage).with_output_types(StagedFile)
        find = FindChanges(self.folder, temporary, step, self.options)
        return (
            find.decided(staged, self.compared)
            | "CountsOf" >> beam.Map(_counts_of).with_output_types(Counts)
            | "Sum" >> beam.CombineGlobally(_sum)
            | "Count" >> beam.Map(_counted).with_output_types(Counts)
        )


def _counts_of(decided: Decided) -> Counts:
    return decided[1].counts


def _sum(counts: Iterable[Counts]) -> Counts:
    return sum(counts, Counts())


def _counted(counts: Counts) -> Counts:
    count_changes(counts)
    return counts
