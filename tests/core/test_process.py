"""What loading a model changes in the process: nothing in a user's, what pays in one of ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import programs
from tests.core.encoder import whole_model

ROOT = Path(__file__).resolve().parents[2]
# threads of torch that wait do not spin, which takes the cores of other tests
SETTINGS = {"HF_HUB_OFFLINE": "1", "GOMP_SPINCOUNT": "0"}

# Prints what a process has set, as JSON, and remembers the calls of mallopt.
SNAPSHOT = """
import ctypes, json, locale, logging, os, random, resource, signal, sys, warnings
import numpy, pyarrow
mallopt = []
dll = ctypes.CDLL
class Watched(dll):
    def __getattribute__(self, name):
        if name != "mallopt":
            return super().__getattribute__(name)
        return lambda *values: mallopt.append(values) or self["mallopt"](*values)
ctypes.CDLL = Watched

def snapshot(with_torch=True):
    found = {
        "environment": dict(os.environ),
        "arrow": (pyarrow.cpu_count(), pyarrow.io_thread_count()),
        "pool": pyarrow.default_memory_pool().backend_name,
        "limits": [resource.getrlimit(kind) for kind in sorted(
            value for name, value in vars(resource).items() if name.startswith("RLIMIT_"))],
        "affinity": sorted(os.sched_getaffinity(0)),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "umask": [os.umask(0o22), os.umask(0o22)][0],
        "folder": os.getcwd(),
        "recursion": sys.getrecursionlimit(),
        "switch": sys.getswitchinterval(),
        "signals": [str(signal.getsignal(number)) for number in (2, 13, 15)],
        "logging": (logging.root.level, logging.root.manager.disable),
        "locale": locale.setlocale(locale.LC_ALL),
        "mallopt": list(mallopt),
        "random": hash(random.getstate()),
        "numpy": numpy.random.get_state()[1].tolist(),
        "float": numpy.geterr(),
    }
    if with_torch:
        import torch
        found |= {
            "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
            "dtype": (str(torch.get_default_dtype()), torch.is_grad_enabled()),
            "seed": torch.random.get_rng_state().tolist(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "mkldnn": (torch.backends.mkldnn.enabled, torch.get_float32_matmul_precision()),
        }
    return json.dumps(found, sort_keys=True, default=str)
"""
IMPORT = """
before = snapshot(False)
import beam_gpte
from beam_gpte.embedding.handlers import rerank_handler, text_handler
after = snapshot(False)
"""
ENCODE = """
import torch, transformers, beam_gpte
torch.set_num_threads(3)
before = snapshot()
vectors = beam_gpte.TextEncoder.load(model).encode(["one", "two words"] * 9)
after = snapshot()
"""
PIPELINE = """
import apache_beam as beam, torch, transformers, beam_gpte
from apache_beam.options.pipeline_options import PipelineOptions
torch.set_num_threads(3)
before = snapshot()
rows = [{"id": str(i), "text": f"w{i}"} for i in range(50)]
with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *sys.argv[2:]])) as p:
    embedded = p | beam.Create(rows) | beam_gpte.EmbedText(model)
    embedded | beam.Map(lambda row: row["embedding"].shape)
    kept = embedded | "All" >> beam.Map(dict) | beam_gpte.Deduplicate(
        (beam_gpte.DeduplicateSemantic(0.99),), scratch=sys.argv[1] + "-scratch")
after = snapshot()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("process") / "model"
    whole_model.make(folder)
    return folder


def run(code: str, *arguments: object, **variables: str) -> str:
    """Run code in a process of its own, as of a user; return what it prints."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=plain | {"PYTHONPATH": str(ROOT), **SETTINGS} | variables,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("steps", "arguments"),
    [
        (IMPORT, []),
        (ENCODE, []),
        (PIPELINE, ["--direct_running_mode=in_memory"]),
        (PIPELINE, ["--direct_running_mode=multi_threading", "--direct_num_workers=2"]),
    ],
    ids=["import", "TextEncoder", "a pipeline", "a pipeline of two threads"],
)
def test_a_users_process_stays_as_it_is(model: Path, steps: str, arguments: list[str]) -> None:
    show = "\nprint(json.dumps([json.loads(before), json.loads(after)]))"
    code = f"{SNAPSHOT}\nmodel = sys.argv[1]\n{steps}{show}"
    before, after = json.loads(run(code, model, *arguments))
    if steps == PIPELINE:
        del before["random"]  # Beam draws from it
    different = {
        name: (before[name], after[name]) for name in before if before[name] != after[name]
    }
    assert different == {}


def test_a_program_sets_what_pays(model: Path) -> None:
    code = (
        f"{SNAPSHOT}\n"
        "import beam_gpte; from beam_gpte.cli.runtime import run_program\n"
        "from beam_gpte.cli.arguments import Program\n"
        "load = lambda *_: beam_gpte.TextEncoder.load(sys.argv[1])\n"
        "run_program(Program('p', '', lambda _: None, load), [], 'p')\n"
        "print(snapshot())"
    )
    found = json.loads(run(code, model))
    assert found["mallopt"][:2] == [[-3, 32 << 20], [-1, 256 << 20]]
    expected = {
        "LRU_CACHE_CAPACITY": "16",
        "OMP_WAIT_POLICY": "PASSIVE",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16",
        "TOKENIZERS_PARALLELISM": "false",
    }
    assert {name: found["environment"].get(name) for name in expected} == expected
    found = json.loads(run(code, model, OMP_WAIT_POLICY="ACTIVE", TOKENIZERS_PARALLELISM="true"))
    assert found["environment"]["OMP_WAIT_POLICY"] == "ACTIVE"  # a user's setting stays
    assert found["environment"]["TOKENIZERS_PARALLELISM"] == "true"


def test_numpy_multiplies_in_one_thread_in_a_program_alone() -> None:
    code = (
        "import json, numpy; from threadpoolctl import threadpool_info\n"
        "import beam_gpte; from beam_gpte.core.process import claim_process, tune_process\n"
        "threads = lambda: [one['num_threads'] for one in threadpool_info()]\n"
        "before = threads(); tune_process(); of_user = threads(); claim_process()\n"
        "print(json.dumps([of_user == before, threads()]))"
    )
    assert json.loads(run(code, OPENBLAS_NUM_THREADS="2")) == [True, [1]]


def test_beams_worker_process_is_ours() -> None:
    """It is known by its main module, and its threads are those of the runtime, for good."""
    code = (
        "import importlib.util, sys\n"
        "name = 'apache_beam.runners.worker.sdk_worker_main'\n"
        "from beam_gpte.core.process import is_ours, torch_threads\n"
        "users = is_ours()\n"
        "sys.modules['__main__'].__spec__ = importlib.util.find_spec(name)\n"
        "import torch; torch.set_num_threads(3)\n"
        "with torch_threads(1): pass\n"
        "print(users, is_ours(), torch.get_num_threads())"
    )
    done = programs.finish(["-c", code])
    assert done.stdout == "False True 1\n", done.stderr


def test_no_more_threads_than_cores(model: Path) -> None:
    """As in a container with one core of many: torch, Arrow and a program's workers use one."""
    code = (
        "import os, sys; os.sched_getaffinity = lambda _: {0}\n"
        "import pyarrow, torch; torch.set_num_threads(8); pyarrow.set_cpu_count(8)\n"
        "import beam_gpte\n"
        "from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions\n"
        "from beam_gpte.core.encoder.backbone import Backbone\n"
        "from beam_gpte.cli.runtime import local_options, run_program\n"
        "used, run = set(), Backbone.run\n"
        "Backbone.run = lambda *a, **k: used.add(torch.get_num_threads()) or run(*a, **k)\n"
        "encoder = beam_gpte.TextEncoder.load(sys.argv[1]); used.clear(); encoder.encode(['a'])\n"
        "users = (used, torch.get_num_threads(), pyarrow.cpu_count())\n"
        "options = PipelineOptions([])\n"
        "from beam_gpte.cli.arguments import Program\n"
        "check = lambda *_: local_options(options)\n"
        "run_program(Program('p', '', lambda _: None, check), [], 'p')\n"
        "workers = options.view_as(DirectOptions).direct_num_workers\n"
        "print(*users, pyarrow.cpu_count(), workers)"
    )
    done = programs.finish(["-c", code, str(model)])
    assert done.stdout.splitlines()[-1] == "{1} 8 8 1 1", done.stderr


@pytest.mark.parametrize(
    ("size", "previous", "found"), [(9, None, "1 2"), (9, "out", "2 1"), (99999, None, "2 1")]
)
def test_few_texts_have_one_worker_with_all_cores(
    tmp_path: Path, size: int, previous: str | None, found: str
) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("a" * size)
    code = (
        "import os, sys; os.sched_getaffinity = lambda _: {0, 1}\n"
        "from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions\n"
        "from beam_gpte.cli.runtime import local_options\n"
        "from beam_gpte.core.process import begin_program, torch_threads\n"
        "begin_program(); options = PipelineOptions([])\n"
        f"local_options(options, [sys.argv[1]], {previous!r})\n"
        "import torch\n"
        "with torch_threads(1): threads = torch.get_num_threads()\n"
        "print(options.view_as(DirectOptions).direct_num_workers, threads)"
    )
    done = programs.finish(["-c", code, str(file)])
    assert done.stdout.strip() == found, done.stderr
