"""Import Beam first of all, without its warning that the gcp extra is not installed, and Polars.

Polars sets a variable for its allocator, which has read it when the import ends; it is removed, as
importing this package changes nothing in a process.

Until `collect_again` no garbage is collected: imports leave none, and looking for it among all that
they make takes a tenth of their time.

Beam imports pandas and pymongo, if they are there, for steps that programs have none of. There it
is imported without, in a fifth less of the time; whoever asks for them later gets them.
"""

import gc
import importlib
import logging
import os
import sys


def _is_program() -> bool:
    """Check whether this process is one of the programs, by what was typed."""
    as_module = sys.orig_argv[1:3] == ["-m", "beam_gpte"]
    return as_module or os.path.basename(sys.argv[0] if sys.argv else "") == "beam-gpte"


_collected = gc.isenabled()
gc.disable()
_previous = logging.root.manager.disable
logging.disable(logging.WARNING)
_without = {"pandas", "pymongo"} - sys.modules.keys() if _is_program() else set()
for _name in _without:
    sys.modules[_name] = None  # type: ignore[assignment]  # how Python marks what is not there
import apache_beam  # noqa: E402, F401  # after logging is off

for _name in _without:
    del sys.modules[_name]
logging.disable(_previous)

_variables = dict(os.environ)
importlib.import_module("polars")
for _name in os.environ.keys() - _variables.keys():
    del os.environ[_name]


def collect_again() -> None:
    """Collect garbage again, if that was so before."""
    if _collected:
        gc.enable()


def drop_messages(texts: tuple[str, ...]) -> None:
    """Drop log messages with one of these texts.

    The root logger keeps the filter, and with it all that its module has imported, until the
    interpreter has ended; so it is in this module, which imports nothing that complains then.
    """
    logging.getLogger().addFilter(lambda record: not any(text in str(record.msg) for text in texts))
