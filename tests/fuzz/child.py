"""Give one target inputs for long, in this process, as new coverage of the code suggests them.

`python -m tests.fuzz.child MODULE:FUNCTION GUIDES FOLDER SECONDS BYTES [option of libFuzzer ...]`,
started by `runner`. The fuzzer is libFuzzer, by atheris; its corpus, with which the next run goes
on, is a folder below FOLDER.
"""

import faulthandler
import pkgutil
import resource
import signal
import sys
import tempfile
from pathlib import Path

import atheris

from tests.fuzz.faults import Faults, write_current

ROOT = Path(__file__).parents[2]
BUSY = 5  # times as long as its CPU seconds an input may take on a machine that does much else


def main() -> None:
    """Never return: the fuzzer ends the process."""
    place, guides, folder = sys.argv[1], sys.argv[2].split(","), Path(sys.argv[3])
    (seconds, memory), options = map(int, sys.argv[4:6]), sys.argv[6:]
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faults, tried = Faults(folder), 0
    with atheris.instrument_imports(include=["beam_gpte"], exclude=_other_modules(guides)):
        from tests.fuzz.trial import problem_of

        target = pkgutil.resolve_name(place)

        def try_input(data: bytes) -> None:
            nonlocal tried
            tried += 1
            write_current(folder, tried, data)
            _limit_memory(memory)
            signal.setitimer(signal.ITIMER_PROF, seconds)  # whose signal ends the process
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
                problem = problem_of(target, data, Path(scratch))
            signal.setitimer(signal.ITIMER_PROF, 0)
            if problem is not None and not faults.is_known(problem):
                faults.note(data, problem)

        corpus = folder / "corpus"
        handlers = [f"-handle_{name}=0" for name in ("abrt", "bus", "fpe", "ill", "segv", "term")]
        atheris.Setup(
            [
                sys.argv[0],
                str(corpus),
                *handlers,
                f"-timeout={BUSY * seconds}",
                "-rss_limit_mb=0",
                f"-artifact_prefix={folder}/",  # not the working directory
                *options,
            ],
            try_input,
        )
        atheris.Fuzz()


def _other_modules(guides: list[str]) -> list[str]:
    """List those of the package that do not guide: atheris selects by top-level name alone."""
    paths = (path.relative_to(ROOT).with_suffix("") for path in ROOT.rglob("beam_gpte/**/*.py"))
    names = (".".join(path.parts).removesuffix(".__init__") for path in paths)
    return [n for n in names if not any(n == g or n.startswith(f"{g}.") for g in guides)]


def _limit_memory(memory: int) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + memory, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
