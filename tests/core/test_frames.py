"""Polars gets no column of a type that it lacks, which would end its process."""

import pyarrow as pa
import pytest

from beam_gpte import InputError
from beam_gpte.core.frames import frame_of_table, series_of

LACKING = [
    pa.decimal256(50, 3),
    pa.month_day_nano_interval(),
    pa.dense_union([pa.field("a", pa.int64())]),
    pa.list_view(pa.int64()),
    pa.list_(pa.decimal256(50, 3)),
    pa.struct([("a", pa.month_day_nano_interval())]),
]


@pytest.mark.parametrize("kind", LACKING, ids=str)
def test_a_type_that_polars_lacks_is_refused_by_its_column(kind: pa.DataType) -> None:
    empty = pa.table({"x": pa.chunked_array([], kind)})
    with pytest.raises(InputError, match="column 'x' is .* cannot be compared or joined"):
        frame_of_table(empty)
    with pytest.raises(InputError, match="column 'x' is .* cannot be compared or joined"):
        series_of("x", pa.array([], kind) if not pa.types.is_union(kind) else pa.nulls(0, kind))


def test_dates_stay_dates() -> None:
    dates = pa.array([86_400_000, None], pa.date64())
    table = frame_of_table(pa.table({"x": dates})).to_arrow()
    assert table.schema.field("x").type == series_of("x", dates).to_arrow().type == pa.date32()
    assert table["x"].to_pylist() == dates.to_pylist()
