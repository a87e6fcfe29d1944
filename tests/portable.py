"""Read a pipeline as a job service gets it, and find what a runner in Java or Go cannot read.

Sources are Beam's own, of runners/ and sdks/java/core: what Java knows of windows is in
`WindowingStrategyTranslation`, of coders in `ModelCoders`. A coder that it does not know it wraps
as bytes with their length (`LengthPrefixUnknownCoders`): fine for values, and for a key if equal
keys have equal bytes, which no Python pickle promises. What a step asks of a runner is in the
`requirements` of the pipeline, and of Flink's translators in `runners/flink`.
"""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from apache_beam.runners.pipeline_utils import validate_pipeline_graph
from apache_beam.runners.portability.portable_runner import PortableRunner

OPTIONS = (
    "--job_endpoint=localhost:1",  # nothing is submitted
    "--environment_type=EXTERNAL",
    "--environment_config=localhost:2",
)
WINDOW_FNS = frozenset(
    f"beam:window_fn:{name}:v1"
    for name in ("global_windows", "fixed_windows", "sliding_windows", "session_windows")
)
# No double: Java calls its bytes not deterministic. No row: its bytes may be in another order.
KEY_CODERS = frozenset(
    f"beam:coder:{name}:v1" for name in ("bytes", "bool", "varint", "string_utf8", "kv", "nullable")
)
# `CombineGlobally` keys by None, by a step of this name: all keys have the same bytes.
NONE_AS_KEY = "KeyWithVoid"
REQUIREMENTS = frozenset(
    (
        common_urns.requirements.REQUIRES_STATEFUL_PROCESSING.urn,
        common_urns.requirements.REQUIRES_SPLITTABLE_DOFN.urn,
    )
)
BAG = common_urns.user_state.BAG.urn
MULTIMAP = common_urns.side_inputs.MULTIMAP.urn
# cloud.google.com/dataflow/docs/request-quotas: 10 MB for the graph, 20 MB for the job as JSON
MAX_BYTES = 10_000_000


class _SubmittedError(Exception):
    """Carry the pipeline out of the runner."""

    def __init__(self, pipeline: api.Pipeline) -> None:
        super().__init__("not submitted")
        self.pipeline = pipeline


class JobService(PortableRunner):
    """Prepare a pipeline as `PortableRunner` does, up to the call of the job service."""

    def create_job_service(self, options: PipelineOptions) -> Any:
        return self

    def submit(self, pipeline: api.Pipeline) -> None:
        raise _SubmittedError(pipeline)


def new_pipeline(*flags: str) -> beam.Pipeline:
    """Make a pipeline for `submitted`."""
    return beam.Pipeline(runner=JobService(), options=PipelineOptions([*OPTIONS, *flags]))


def submitted(pipeline: beam.Pipeline, dataflow: bool = False) -> api.Pipeline:
    """Return what a job service would get.

    Args:
      pipeline: of `new_pipeline`.
      dataflow: prepare it first as Beam does for Dataflow, which gives side inputs other types.
    """
    if dataflow:
        pipeline.visit(DataflowRunner.side_input_visitor())
    try:
        pipeline.run()
    except _SubmittedError as done:
        return done.pipeline
    raise AssertionError("nothing was submitted")


def faults(pipeline: api.Pipeline, known: tuple[str, ...] = ()) -> list[str]:
    """Say, a line each, what another runner cannot read, or would wait for in vain.

    Args:
      pipeline: as a job service gets it.
      known: ends of names of steps that may have side inputs in a stream.
    """
    validate_pipeline_graph(pipeline)  # key and value coders of each GroupByKey
    graph = _Graph(pipeline)
    return [
        *graph.windows(),
        *graph.keys(),
        *graph.states(),
        *graph.side_inputs(known),
        *graph.flattens(),
        *(f"requires {name}" for name in pipeline.requirements if name not in REQUIREMENTS),
        *([] if pipeline.ByteSize() < MAX_BYTES else [f"a graph of {pipeline.ByteSize()} bytes"]),
    ]


class _Graph:
    def __init__(self, pipeline: api.Pipeline) -> None:
        self._all = pipeline.components
        self._steps = list(pipeline.components.transforms.values())
        self._names = {step.unique_name for step in self._steps}
        self._pardos = [
            (step, api.ParDoPayload.FromString(step.spec.payload))
            for step in self._steps
            if step.spec.urn == common_urns.primitives.PAR_DO.urn
        ]

    def windows(self) -> Iterator[str]:
        """Find windows that are Python's own."""
        for windowing in self._all.windowing_strategies.values():
            if windowing.window_fn.urn not in WINDOW_FNS:
                yield f"windows of {windowing.window_fn.urn}"

    def keys(self) -> Iterator[str]:
        """Find keys whose bytes are not the same for equal keys, for a runner in Java."""
        for step in self._steps:
            if step.spec.urn == common_urns.primitives.GROUP_BY_KEY.urn:
                yield from self._key_faults(step, next(iter(step.inputs.values())))
        for step, payload in self._pardos:
            if payload.state_specs or payload.timer_family_specs:
                yield from self._key_faults(step, self._main(step, payload))

    def states(self) -> Iterator[str]:
        """Find states that Flink's portable translation cannot keep: it keeps bags."""
        for step, payload in self._pardos:
            for name, spec in payload.state_specs.items():
                if spec.protocol.urn != BAG:
                    yield f"{step.unique_name}: state {name} of {spec.protocol.urn}"

    def side_inputs(self, known: tuple[str, ...]) -> Iterator[str]:
        """Find side inputs of which keys cannot be read, that never end, and those of streams.

        Flink fails at the first checkpoint of a stream that has a side input that is not empty
        (Beam 2.62), so there is none but what a user gives.
        """
        for step, payload in self._pardos:
            in_stream = self._is_stream(self._main(step, payload))
            for tag, view in payload.side_inputs.items():
                name, side = f"{step.unique_name}: side input", step.inputs[tag]
                if view.access_pattern.urn == MULTIMAP:
                    yield from self._key_faults(step, side)
                if self._is_stream(side):
                    yield f"{name} is a stream"
                if in_stream and not step.unique_name.endswith(known):
                    yield f"{name} in a stream"

    def flattens(self) -> Iterator[str]:
        """Find collections whose bytes are not those of what they are joined to."""
        for step in self._steps:
            if step.spec.urn == common_urns.primitives.FLATTEN.urn:
                joined = self._coder_of(next(iter(step.outputs.values())))
                for parts in {self._coder_of(part) for part in step.inputs.values()} - {joined}:
                    yield f"{step.unique_name}: {parts} becomes {joined}"

    def _key_faults(self, step: api.PTransform, collection: str) -> Iterator[str]:
        coder = self._coder(self._key(collection))
        urns = set(coder.replace("(", " ").replace(")", " ").replace(",", " ").split())
        if not urns <= KEY_CODERS and not self._is_none(step.unique_name):
            yield f"{step.unique_name}: keys of {coder}"

    def _is_none(self, name: str) -> bool:
        parts = name.split("/")
        return any("/".join((*parts[:i], NONE_AS_KEY)) in self._names for i in range(len(parts)))

    def _main(self, step: api.PTransform, payload: api.ParDoPayload) -> str:
        (main,) = (value for tag, value in step.inputs.items() if tag not in payload.side_inputs)
        return main

    def _key(self, collection: str) -> str:
        return self._all.coders[self._all.pcollections[collection].coder_id].component_coder_ids[0]

    def _is_stream(self, collection: str) -> bool:
        return self._all.pcollections[collection].is_bounded == api.IsBounded.UNBOUNDED

    def _coder_of(self, collection: str) -> str:
        return self._coder(self._all.pcollections[collection].coder_id, payloads=True)

    def _coder(self, name: str, payloads: bool = False) -> str:
        coder = self._all.coders[name]
        parts = ", ".join(self._coder(part, payloads) for part in coder.component_coder_ids)
        shown = f"{coder.spec.urn}({parts})" if parts else coder.spec.urn
        return f"{shown}{coder.spec.payload!r}" if payloads and coder.spec.payload else shown
