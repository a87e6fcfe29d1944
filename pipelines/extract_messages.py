"""Run `beam-gpte extract messages` with its flags: messages of an installed package.

python pipelines/extract_messages.py django de messages
"""

import sys

from beam_gpte.cli.main import run_page

if __name__ == "__main__":
    run_page("extract messages", sys.argv[1:])
