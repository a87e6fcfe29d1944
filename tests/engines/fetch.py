"""Fetch the engines into `.engines/`: `python -m tests.engines.fetch`.

Maven Central has Beam's Flink and Spark runners, as jars; Go builds Prism. What is there already is
not fetched again.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import apache_beam

HERE = Path(__file__).resolve().parent
FOLDER = Path(os.environ.get("BEAM_GPTE_ENGINES", HERE.parents[1] / ".engines"))
PRISM = FOLDER / "prism" / "prism"
JAVA = range(11, 18)  # versions that Flink 1.19 and Spark 3.5 run on
# on the class path twice, in two bindings, the first of which wins by chance
UNWANTED = ("log4j-slf4j2-impl-*.jar",)


def jars(engine: str) -> Path:
    """Name the folder of an engine's jars: "flink" or "spark"."""
    return FOLDER / engine


def lacking(engine: str) -> str | None:
    """Say in one line what this machine lacks to fetch and run an engine; None if nothing."""
    tools = ("go",) if engine == "prism" else ("java", "mvn")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        return f"{engine} needs {' and '.join(missing)}"
    if engine != "prism" and (version := _java_version()) not in JAVA:
        return f"{engine} needs Java {JAVA[0]} to {JAVA[-1]}; this is {version}"
    return None


def is_fetched(engine: str) -> bool:
    """Return whether an engine was fetched as a whole."""
    return PRISM.exists() if engine == "prism" else (jars(engine) / "fetched").exists()


def fetch(engine: str) -> None:
    """Fetch an engine if that was not done yet.

    Raises:
      subprocess.CalledProcessError: Maven or Go failed; what they say is on standard error.
    """
    if is_fetched(engine):
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    if engine == "prism":
        version = f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{apache_beam.__version__}"
        environment = {**os.environ, "GOBIN": str(PRISM.parent)}
        subprocess.run(["go", "install", version], env=environment, check=True)
        return
    shutil.rmtree(jars(engine), ignore_errors=True)
    pom = str(HERE / f"{engine}.xml")
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={jars(engine)}"]
    subprocess.run(["mvn", "-q", "-B", "-f", pom, *goal], check=True)
    for pattern in UNWANTED:
        for path in jars(engine).glob(pattern):
            path.unlink()
    (jars(engine) / "fetched").touch()


def _java_version() -> int | None:
    """Return the major version of `java`: 17 of "17.0.15", 8 of "1.8.0"."""
    printed = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(?:1\.)?(\d+)', printed.stderr)
    return int(found[1]) if found else None


def main() -> None:
    """Fetch what this machine can have, and say what it lacks for the rest."""
    for engine in ("prism", "flink", "spark"):
        reason = lacking(engine)
        if reason is None:
            try:
                fetch(engine)
            except subprocess.CalledProcessError as error:
                reason = f"{engine} was not fetched: {error.cmd[0]} ended with {error.returncode}"
        print(reason or f"{engine} is in {FOLDER}", file=sys.stderr if reason else sys.stdout)


if __name__ == "__main__":
    main()
