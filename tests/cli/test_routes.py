"""The programs with a model of two routes: documents are embedded by one, questions by another."""

from pathlib import Path

import pytest

from beam_gpte import Block, EmbedText, EncoderConfig, InputError, WriteVectorsToDuckDB
from beam_gpte.cli.corpus_options import add_model_options
from beam_gpte.cli.models.endpoint_options import model_of
from beam_gpte.cli.option_parser import OptionParser
from beam_gpte.cli.programs import search
from beam_gpte.core.encoder.text_encoder import TextEncoder
from beam_gpte.core.static.static_encoder import StaticEncoder
from tests.core.encoder import whole_model
from tests.core.encoder.routes import routed_models

TEXTS = [f"the cat sat on w{i} and w{i + 1}" for i in range(12)]


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("routed")
    whole_model.make(folder / "whole")
    return routed_models.static_queries(folder / "model", folder / "whole")


def test_documents_of_one_route_are_searched_by_questions_of_another(
    routed: str, tmp_path: Path
) -> None:
    import apache_beam as beam

    document, query = (EncoderConfig(routed, route=route) for route in ("document", "query"))
    block = Block.from_pydict({"id": [f"{i}" for i in range(len(TEXTS))], "text": TEXTS})
    path = str(tmp_path / "vectors.duckdb")
    with beam.Pipeline("FnApiRunner") as p:
        p | beam.Create([block]) | EmbedText(document) | WriteVectorsToDuckDB(path)
    hits = search.ask(path, "w7 w8", query, 3).hits
    asked = StaticEncoder.load(query).encode(["w7 w8"])[0]
    cosines = TextEncoder.load(document).encode(TEXTS) @ asked
    assert [hit[1] for hit in hits] == [str(i) for i in (-cosines).argsort()[:3]]
    plain = tmp_path / "whole"
    whole_model.make(plain)
    with pytest.raises(InputError, match="ask with that model"):
        search.ask(path, "w7 w8", EncoderConfig(str(plain)), 3)


def test_a_route_is_an_option_of_models_in_files(routed: str) -> None:
    parser = OptionParser()
    add_model_options(parser)
    options = parser.parse_args(["--model", routed, "--route", "query"])
    assert model_of(options, route=options.route) == EncoderConfig(routed, route="query")
    options = parser.parse_args(["--model", "m", "--route", "query", "--endpoint", "http://a"])
    with pytest.raises(InputError, match="--route is for a model in files"):
        model_of(options, route=options.route)
