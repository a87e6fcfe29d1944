"""Run `beam-gpte inspect` with its flags: describe Parquet files or a DuckDB file.

python pipelines/inspect_vectors.py vectors
"""

import sys

from beam_gpte.cli.main import run_page

if __name__ == "__main__":
    run_page("inspect", sys.argv[1:])
