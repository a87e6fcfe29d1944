"""Import Beam first of all, without its warning that the gcp extra is not installed."""

import logging

_previous = logging.root.manager.disable
logging.disable(logging.WARNING)
import apache_beam  # noqa: E402, F401  # after logging is off

logging.disable(_previous)
