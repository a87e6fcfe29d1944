"""Run `beam-gpte extract docstrings` with its flags: the docstrings of Python's standard library.

python pipelines/extract_docstrings.py docstrings.jsonl
"""

import sys

from beam_gpte.cli.main import run_page

if __name__ == "__main__":
    run_page("extract docstrings", sys.argv[1:])
