"""A process loads a model once, whichever steps have it, and several models one by one."""

import gc
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest

import beam_gpte as bg
from beam_gpte.core.encoder.config import EncoderConfig
from beam_gpte.core.encoder.text_encoder import TextEncoder
from beam_gpte.core.scorers.cross_encoder import CrossEncoder
from beam_gpte.core.scorers.settings import ScoreSettings
from beam_gpte.embedding.handlers import text_handler
from beam_gpte.embedding.handlers.rerank_handler import RerankModelHandler
from beam_gpte.embedding.shared_models import loaded, shared_model
from tests.embedding.test_rerank import save
from tests.programs import ROOT

THREADS = 12

# In a process of its own: what transformers imports late is imported once. Every thread is a step
# that a runner sets up; they have four models, of which two are one folder.
RACE = """
import collections, pickle, sys, threading
from beam_gpte import EncoderConfig, ModelRuntime, ScoreSettings, TextEmbeddingModelHandler
from beam_gpte.core.encoder import pretrained, text_encoder
from beam_gpte.core.scorers import cross_encoder
from beam_gpte.embedding.handlers.rerank_handler import RerankModelHandler
from beam_gpte.embedding.shared_models import loaded

bert, mpnet, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
loads = collections.Counter()
for kind in text_encoder.TextEncoder, cross_encoder.CrossEncoder:
    def counted(cls, *args, load=kind.load.__func__):
        config = args[0]
        loads[cls.__name__, config.model[-5:], config.pooling] += 1
        return load(cls, *args)
    kind.load = classmethod(counted)
handlers = [
    TextEmbeddingModelHandler(bert),
    TextEmbeddingModelHandler(EncoderConfig(bert, pooling="cls"), runtime=ModelRuntime(threads=2)),
    TextEmbeddingModelHandler(mpnet),
    RerankModelHandler(
        EncoderConfig(bert), ("a", "b"), "score", ScoreSettings(), False, None, ModelRuntime()
    ),
]
models, start = [None] * threads, threading.Barrier(threads)
def set_up(i):
    handler = pickle.loads(pickle.dumps(handlers[i % 4]))
    start.wait()
    models[i] = loaded(handler.load_model())
running = [threading.Thread(target=set_up, args=(i,)) for i in range(threads)]
for thread in running: thread.start()
for thread in running: thread.join()
print(sorted(loads.values()), len(set(map(id, models))), models.count(None))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Save two tiny models of different architectures."""
    bert, mpnet = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("mpnet")
    return save(bert, "bert"), save(mpnet, "mpnet")


def test_many_threads_load_each_model_once(folders: tuple[str, str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RACE, *folders, str(THREADS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.stdout == "[1, 1, 1, 1] 4 0\n", done.stderr


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[EncoderConfig]:
    """Collect the configurations of the text encoders that are loaded."""
    loaded: list[EncoderConfig] = []
    load: Any = TextEncoder.load.__func__  # type: ignore[attr-defined]

    def noted(
        cls: type, config: EncoderConfig, root: Path | None = None, adapter: Path | None = None
    ) -> TextEncoder:
        loaded.append(config)
        return load(cls, config, root, adapter)

    monkeypatch.setattr(TextEncoder, "load", classmethod(noted))
    return loaded


def test_source_target_and_a_user_have_one_model(
    folders: tuple[str, str],
    loads: list[EncoderConfig],
    new_pipeline: Callable[..., beam.Pipeline],
) -> None:
    from apache_beam.ml.inference.base import RunInference

    with new_pipeline() as p:
        for side in ("source", "target"):
            rows = p | side >> beam.Create([{"id": 1, "text": "cat dog"}])
            _ = rows | f"Embed {side}" >> bg.EmbedText(folders[0])
        handler = bg.TextEmbeddingModelHandler(folders[0])
        _ = p | beam.Create(["cat"]) | RunInference(handler)
    assert loads == [EncoderConfig(folders[0])]


def test_a_step_loads_its_model_with_its_first_rows_and_shows_its_counters_before(
    tmp_path: Path, loads: list[EncoderConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[tuple[int, tuple[str, ...]]] = []
    monkeypatch.setattr(
        text_handler, "announce", lambda names: announced.append((len(loads), names))
    )
    folder = save(tmp_path, "bert")
    handler = bg.EmbedText(folder)._handler()
    model = handler.load_model()
    assert loads == []
    rows = bg.Block.from_pydict({"id": ["a"], "text": ["cat"]})
    (embedded,) = handler.run_inference(rows, model)
    assert loads == [EncoderConfig(folder)]
    assert announced == [(0, text_handler.COUNTERS)]
    alone = TextEncoder.load(folder).encode(["cat"])
    assert embedded.column("embedding").to_pylist() == alone.tolist()


def test_a_promised_model_is_loaded_once_by_all_threads(
    tmp_path: Path, loads: list[EncoderConfig]
) -> None:
    folder = save(tmp_path, "bert")
    model = bg.EmbedText(folder)._handler().load_model()
    running = [threading.Thread(target=loaded, args=(model,)) for _ in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert loads == [EncoderConfig(folder)]


def test_a_model_for_all_processes_is_loaded_when_a_step_is_set_up(
    tmp_path: Path, loads: list[EncoderConfig]
) -> None:
    folder = save(tmp_path, "bert")
    large = bg.ModelRuntime(large_model=True)
    model = bg.EmbedText(folder, runtime=large)._handler().load_model()
    assert isinstance(model, TextEncoder)
    assert loads == [EncoderConfig(folder)]


def test_two_models_stay_while_steps_have_them_and_are_freed_then(
    tmp_path: Path, loads: list[EncoderConfig]
) -> None:
    folders = save(tmp_path / "bert", "bert"), save(tmp_path / "mpnet", "mpnet")
    first, second = (bg.TextEmbeddingModelHandler(folder) for folder in folders)
    models = [first.load_model(), second.load_model(), first.load_model(), second.load_model()]
    assert models[0] is models[2]
    assert models[1] is models[3]
    assert models[0] is not models[1]
    assert len(loads) == 2
    alive = weakref.ref(models[0])
    models.clear()
    gc.collect()
    assert alive() is None
    first.load_model()
    assert len(loads) == 3


def test_each_setting_of_a_vector_is_a_model_of_its_own(folders: tuple[str, str]) -> None:
    configs = [EncoderConfig(folders[0], **given) for given in ({}, {"pooling": "cls"})]
    models = [shared_model(TextEncoder.load, config) for config in configs]
    assert models[0] is shared_model(TextEncoder.load, EncoderConfig(folders[0]))
    assert models[0].fingerprint != models[1].fingerprint
    assert isinstance(shared_model(CrossEncoder.load, configs[0]), CrossEncoder)


def test_a_model_that_was_written_anew_is_loaded_anew(tmp_path: Path) -> None:
    before = shared_model(TextEncoder.load, EncoderConfig(save(tmp_path, "bert")))
    after = shared_model(TextEncoder.load, EncoderConfig(save(tmp_path, "bert", hidden_size=16)))
    assert (before.dim, after.dim) == (before.dim, 16)
    assert before.dim != after.dim


def test_vectors_of_a_shared_model_are_those_of_one_that_is_loaded_alone(
    folders: tuple[str, str],
) -> None:
    texts = ["cat dog", "cat", "dog dog cat"]
    alone = TextEncoder.load(folders[0]).encode(texts)
    handlers = [bg.TextEmbeddingModelHandler(folders[0]) for _ in range(4)]
    found: list[np.ndarray] = [alone] * 4

    def embed(i: int) -> None:
        handler = pickle.loads(pickle.dumps(handlers[i]))
        results = handler.run_inference(texts, handler.load_model())
        found[i] = np.stack([result.inference for result in results])

    running = [threading.Thread(target=embed, args=(i,)) for i in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert all(np.array_equal(one, alone) for one in found)
    assert not any(one is alone for one in found)


def test_a_missing_model_is_named_and_leaves_nothing(folders: tuple[str, str]) -> None:
    missing = EncoderConfig("./nowhere")
    handler = RerankModelHandler(
        missing, ("a", "b"), "score", ScoreSettings(), False, None, bg.ModelRuntime()
    )
    for _ in range(2):
        with pytest.raises(bg.InputError, match=r"^Rerank: model './nowhere': no such folder"):
            loaded(handler.load_model())
    assert shared_model(TextEncoder.load, EncoderConfig(folders[0])).dim
