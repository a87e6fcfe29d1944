"""Flags: those that nobody knows are refused before anything runs, with the nearest one."""

from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from beam_gpte import InputError
from beam_gpte.cli.arguments import make_parser, option_names, parse
from beam_gpte.cli.beam_flags import FLINK, SPARK, beam_parser
from beam_gpte.cli.main import COMMANDS, program_of

EMBED = program_of("embed")
NEEDED = ["--input", "a.jsonl", "--output", "out", "--model", "m"]


def given(*more: str) -> list[str]:
    return [*NEEDED, *more]


@pytest.mark.parametrize(
    ("command", "flag", "meant"),
    [
        ("dedup", "--thresold", "--threshold"),
        ("dedup", "--thresh", "--threshold"),
        ("embed", "--text-colum", "--text_column"),
        ("embed", "--reports", "--report"),
        ("mine", "--splitsentences", "--split_sentences"),
        ("stream", "--horizn", "--horizon"),
        ("embed", "--runer", "--runner"),
        ("stream", "--checkpoint_interval", "--checkpointing_interval"),
        ("search", "--truncate", "--truncate_dim"),
        ("inspect", "--tables", "--table"),
    ],
)
def test_a_misspelt_flag_is_told_the_nearest(command: str, flag: str, meant: str) -> None:
    spelled = flag.replace("-", "_").replace("__", "--", 1)
    for argv in ([flag, "1"], [f"{flag}=1"]):
        with pytest.raises(InputError) as raised:
            parse(program_of(command), argv)
        assert str(raised.value) == f"{spelled} is not an option; did you mean {meant}?"


def test_a_flag_like_no_other_is_refused() -> None:
    for argv in (["--qqqqqq"], ["--qqqqqq=1"], ["-q"]):
        with pytest.raises(InputError, match=r"^-+q+ is not an option"):
            parse(EMBED, given(*argv))
    with pytest.raises(InputError, match=r"^'b.jsonl' follows no option"):
        parse(EMBED, given("--text_column", "text", "b.jsonl"))
    with pytest.raises(InputError, match=r"--runner is not an option"):
        parse(program_of("search"), ["v.duckdb", "q", "--model", "m", "--runner=FnApiRunner"])


def test_dashes_and_underscores_name_the_same_flag() -> None:
    options, flags = parse(
        EMBED, given("--text-column", "a-b", "--id-column=c-d", "--direct-num-workers=2")
    )
    assert (options.text_column, options.id_column) == ("a-b", "c-d")
    assert flags == ["--direct_num_workers=2"]


def test_what_is_missing_or_wrong_is_one_line() -> None:
    for argv, message in [
        (NEEDED[:4], "the following arguments are required: --model; --help lists all options"),
        (given("--truncate_dim", "x"), "--truncate_dim: invalid int value: 'x'; --help"),
        (given("--text_column"), "--text_column: expected one argument; --help"),
        (["--inptu", "a"], "--inptu is not an option; did you mean --input?"),  # not "required"
    ]:
        with pytest.raises(InputError) as raised:
            parse(EMBED, argv)
        assert str(raised.value).startswith(message)


def test_flags_of_beam_are_handed_on() -> None:
    beam = ["--runner", "FnApiRunner", "--streaming", "--s3_region_name=x"]
    engine = ["--checkpointing_interval", "1000", "--finish_bundle_before_checkpointing"]
    options, flags = parse(EMBED, [*beam, *given(), *engine])
    assert flags == [*beam, *engine]
    assert options.input == ["a.jsonl"]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_program_takes_a_flag_of_beam_for_its_own(name: str) -> None:
    of_beam = {*option_names(beam_parser()), *(f"--{flag}" for flag in (FLINK + SPARK).split())}
    of_beam.remove("--dry_run")  # a flag for Beam's tests of runners that submit no job, as ours
    assert set(option_names(make_parser(program_of(name)))) & of_beam <= {"-h", "--help"}


class _Service(beam_job_api_pb2_grpc.JobServiceServicer):
    def DescribePipelineOptions(self, request: object, context: object) -> object:  # noqa: N802
        option = beam_job_api_pb2.PipelineOptionDescriptor(name="of_this_service")
        return beam_job_api_pb2.DescribePipelineOptionsResponse(options=[option])


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    beam_job_api_pb2_grpc.add_JobServiceServicer_to_server(_Service(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield f"localhost:{port}"
    server.stop(0)


def test_a_job_service_says_which_flags_it_takes(endpoint: str) -> None:
    service = f"--job_endpoint={endpoint}"
    _, flags = parse(EMBED, given(service, "--of_this_service", "1"))
    assert flags == [service, "--of_this_service", "1"]
    with pytest.raises(InputError, match="--of_that_service is not an option; did you mean --of_"):
        parse(EMBED, given(service, "--of_that_service", "1"))


def test_a_job_service_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_gpte.cli.beam_flags.ASK_SECONDS", 0.5)
    with pytest.raises(InputError, match=r"job_endpoint 'localhost:9': no job service answers"):
        parse(EMBED, given("--job_endpoint=localhost:9", "--of_that_service", "1"))
