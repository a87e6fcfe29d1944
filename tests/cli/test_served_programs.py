"""The programs with a model that a server runs: `--endpoint`, and no key in what they leave."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from beam_gpte import EncoderConfig, EndpointConfig, InputError
from beam_gpte.cli.corpus_options import add_model_options
from beam_gpte.cli.models.endpoint_options import model_of
from tests.model_server import ModelServer
from tests.programs import finish

KEY = "sk-planted-7f3a"
HEADER = "Authorization: Bearer ${SERVED_TEST_KEY}"
ENVIRONMENT = {"SERVED_TEST_KEY": KEY}


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(key=f"Bearer {KEY}") as model:
        yield model


def beam_gpte(*arguments: object, expect: int = 0) -> str:
    done = finish(["-m", "beam_gpte", *map(str, arguments)], environment=ENVIRONMENT)
    assert done.returncode == expect, done.stderr
    return done.stdout + done.stderr


def test_a_corpus_is_embedded_searched_and_deduplicated(
    server: ModelServer, tmp_path: Path
) -> None:
    rows = [{"id": f"{i}", "text": f"text {i // 2} x"} for i in range(20)]
    rows.append({"id": "bad", "text": "echo the key"})
    corpus = tmp_path / "rows.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = ["--model", "m", "--endpoint", server.url, "--header", HEADER]
    reading = ["--input", corpus, "--id_column", "id", *model]
    writing = ["--output", tmp_path / "v", "--duckdb", tmp_path / "v.db"]
    printed = beam_gpte("embed", *reading, *writing, "--report", tmp_path / "page.html")
    assert "1 x HTTP 400" in printed
    table = pq.read_table(next((tmp_path / "v").glob("*.parquet")))
    assert sorted(table["id"].to_pylist()) == sorted(row["id"] for row in rows[:-1])
    printed += beam_gpte("search", tmp_path / "v.db", "text 7 x", "-k", 2, *model)
    assert "1.000  14\n" in printed
    by = ["--by", "semantic", "--threshold", 0.99, "--output", tmp_path / "d"]
    printed += beam_gpte("dedup", *reading, *by)
    assert "21 rows: 10 kept, 10 removed, 1 rejected" in printed
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(left) > 8
    assert not any(KEY.encode() in path.read_bytes() for path in left)
    assert KEY not in printed
    mistake = beam_gpte("embed", *reading, *writing, "--dry_run", expect=2)
    assert "a dry run measures a model in files; leave it out, or --endpoint" in mistake


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    return parser.parse_args(["--model", "m", *arguments])


def test_options_are_the_settings_of_an_endpoint() -> None:
    given = ["--api", "tei", "--items_per_request", "9", "--requests_per_second", "2.5"]
    made = options("--endpoint", "http://localhost", "--header", "X-Title: a", *given)
    assert model_of(made, prompt="query: ", truncate_dim=5, precision="fp32") == EndpointConfig(
        "http://localhost",
        "m",
        "tei",
        5,
        {"X-Title": "a"},
        "query: ",
        max_items_per_request=9,
        requests_per_second=2.5,
    )
    assert model_of(options(), prompt="a") == EncoderConfig("m", prompt="a")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--api", "tei"], "--api is for --endpoint; leave it out, or give that"),
        (["--endpoint", "http://a", "--header", "a"], "write 'NAME: VALUE'"),
        (["--endpoint", "http://a", "--header", f"x-api-key: {KEY}"], "may hold a key"),
        (["--endpoint", "http://a", "--prompt_name", "query"], "--prompt_name is for a model in"),
    ],
)
def test_a_mistake_is_named_by_its_flag(arguments: list[str], message: str) -> None:
    made = options(*arguments)
    with pytest.raises(InputError, match=message) as raised:
        model_of(made, prompt_name=made.prompt_name)
    assert KEY not in str(raised.value)
