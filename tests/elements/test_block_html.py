"""What a notebook shows of a block: little, and nothing of a text is markup."""

import html.parser

import numpy as np
import pyarrow as pa

from beam_gpte import Block, VectorMetadata

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>"


class Tags(html.parser.HTMLParser):
    """Collect tags, attributes and texts."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def embedded(model: str = "all-MiniLM-L6-v2", rows: int = 2) -> Block:
    metadata = VectorMetadata(model, "f", "mean", "query: ", 384, True)
    vectors = pa.array([np.full(384, 0.125, np.float32)] * rows, pa.list_(pa.float32(), 384))
    block = Block.from_pydict({"id": list(range(rows)), "text": ["a text"] * rows})
    return block.with_column(metadata.field("embedding"), vectors)


def test_hostile_values_names_and_models_are_text() -> None:
    block = Block.from_pydict(
        {HOSTILE: [HOSTILE], "list": [[HOSTILE]], "bytes": [HOSTILE.encode()]}
    )
    for shown in (block._repr_html_(), embedded(HOSTILE)._repr_html_()):
        found = Tags(shown)
        assert found.tags <= {
            "div", "table", "thead", "tbody", "tr", "th", "td", "br", "small", "i",
        }  # fmt: skip
        assert found.attributes == {"style"}
        assert any("<script>" in text for text in found.texts)


def test_control_characters_and_changes_of_direction_are_seen() -> None:
    shown = Block.from_pydict({"text": ["a\u202eb\x00c\nd"]})._repr_html_()
    assert r"a\u202eb\x00c\nd" in shown


def test_long_texts_and_vectors_are_cut() -> None:
    block = embedded()
    assert "[0.125, 0.125, 0.125, \u2026]" in block._repr_html_()
    long = Block.from_pydict({"text": ["x" * 100_000], "numbers": [list(range(100_000))]})
    assert len(long._repr_html_()) < 2_000


def test_only_the_first_rows_and_columns_are_shown_and_all_are_counted() -> None:
    many = Block.from_pydict({f"column{i}": list(range(10_000)) for i in range(100)})
    shown = many._repr_html_()
    assert shown.count("<tr>") == 1 + 5
    assert shown.count("<th") - shown.count("<thead") == 12
    assert "10,000 rows, 100 columns (5 rows, 12 columns shown)" in shown
    assert len(shown) < 10_000


def test_what_made_the_vectors_is_shown() -> None:
    shown = embedded()._repr_html_()
    expected = "all-MiniLM-L6-v2, 384 dimensions, mean pooling, float32, prompt &#x27;query: &#x27;"
    assert f"embedding: {expected}" in shown
    assert "Block: 2 rows, 3 columns<" in shown


def test_nulls_and_values_of_every_kind_are_shown() -> None:
    invalid = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
    )
    block = Block.from_pydict({"a": [None], "invalid": invalid, "nested": [{"x": [1, None]}]})
    assert "<i>null</i>" in block._repr_html_()
    for odd in (Block.from_pydict({}), Block.from_pydict({"a": pa.nulls(0)})):
        assert "Block: 0 rows" in odd._repr_html_()


def test_the_page_s_colors_are_kept() -> None:
    shown = embedded()._repr_html_()
    assert "color" not in shown
    assert "background" not in shown
