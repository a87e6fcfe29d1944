"""Tune a process that is ours, and leave any other as it is.

Ours are the programs of this project and Beam's worker processes: nothing else runs there. In a
notebook, a test or a script of a user, loading a model changes no variable, no limit and no number
of threads; what has to differ while a model runs is restored.
"""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator

from beam_gpte.core.machine import cores
from beam_gpte.core.memory import keep_freed_memory

# Main modules of Beam's worker processes.
_WORKERS = ("apache_beam.runners.worker.", "dataflow_worker.")

# Kernels that oneDNN keeps, made for every number of rows. Batches without padding keep having new
# sizes: with the 1,024 that PyTorch and oneDNN keep by default, MiniLM grew from 0.67 to 1.27 GB
# over 400 batches, and would have grown on.
KERNELS = 16

# Read when torch and its libraries are imported. Threads that wait must not spin: active waiting on
# a busy worker was 3.2 times slower.
_VARIABLES = {
    "LRU_CACHE_CAPACITY": str(KERNELS),
    "OMP_WAIT_POLICY": "PASSIVE",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": str(KERNELS),
    "TOKENIZERS_PARALLELISM": "false",
}

# Modules that Beam asks for, and does without: whether this is a notebook, and a manager of models
# that brings SciPy.
_NOT_IMPORTED = ("IPython", "apache_beam.ml.inference.model_manager")

# New objects between two searches for garbage, of which a program makes little; Python's 700 cost a
# tenth of the CPU time of a short one.
_OBJECTS = 20_000

_claimed: list[bool] = []  # not empty once `claim_process` was called
_programs: list[bool] = []  # not empty once `begin_program` was called
_lone: list[bool] = []  # not empty once `begin_lone_worker` was called


def begin_program() -> None:
    """Call this process a program, in which nobody's code but ours runs; before torch is imported.

    Modules that Beam and transformers import if they are there, and that we do not use, are left
    out; see `core.quick_transformers`.
    """
    _programs.append(True)
    for name in _NOT_IMPORTED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # how Python marks them
    claim_process()


def claim_process() -> None:
    """Call this process ours, and tune it; at its start, before torch is imported.

    NumPy's products run in one thread: workers are one per core, and OpenBLAS's threads spin while
    they wait for one another, which doubled the CPU time of a deduplication of 20,000 vectors. To
    find OpenBLAS, the list of libraries is held; a thread that imports one meanwhile would wait for
    ever, so that workers whose threads have begun are left as they are.
    """
    from threadpoolctl import ThreadpoolController

    _claimed.append(True)
    gc.set_threshold(_OBJECTS, *gc.get_threshold()[1:])
    ThreadpoolController().select(internal_api="openblas").limit(limits=1)
    tune_process()


def begin_lone_worker() -> None:
    """Let a model use all cores where it would use one: the program has a single worker."""
    _lone.append(True)


def is_program() -> bool:
    """Check whether this process runs nobody's code but ours."""
    return bool(_programs)


def is_ours() -> bool:
    """Check whether this process was claimed, or is a worker of Beam's."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    names = [getattr(spec, "name", ""), *sys.orig_argv[1:3]]
    return bool(_claimed) or any(str(name).startswith(_WORKERS) for name in names)


def tune_process() -> None:
    """Set what suits a worker among others, where the process is ours.

    Variables that are set stay. Memory that was freed is kept for the next allocations, and Arrow
    starts no more threads than there are cores.
    """
    if not is_ours():
        return
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    keep_freed_memory()
    import pyarrow as pa  # the encoder alone does without

    if pa.cpu_count() > cores():
        pa.set_cpu_count(cores())


@contextlib.contextmanager
def torch_threads(count: int | None = None) -> Iterator[None]:
    """Run torch with `count` threads, restored at the end unless the process is ours.

    Args:
      count: of threads; None for as many as torch would use, but no more than there are cores;
        1 for one per worker, so that a lone worker has one for each core.
    """
    import torch

    before = torch.get_num_threads()
    wanted = min(before, cores()) if count is None else count
    if wanted == 1 and _lone:
        wanted = cores()
    if wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        if not is_ours():
            torch.set_num_threads(before)
