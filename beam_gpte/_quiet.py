"""Imports Beam before anything else does, without the warning it gives where its gcp extra is not installed."""

import logging

_former = logging.root.manager.disable
logging.disable(logging.WARNING)
import apache_beam  # noqa: E402, F401

logging.disable(_former)
