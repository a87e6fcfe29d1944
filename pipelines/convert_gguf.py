"""Run `beam-gpte convert gguf` with its flags: convert a GGUF file to a model folder.

python pipelines/convert_gguf.py smollm2
"""

import sys

from beam_gpte.cli.main import run_page

if __name__ == "__main__":
    run_page("convert gguf", sys.argv[1:])
