"""Import Beam first of all, without its warning that the gcp extra is not installed."""

import logging

_previous = logging.root.manager.disable
logging.disable(logging.WARNING)
import apache_beam  # noqa: E402, F401  # after logging is off

logging.disable(_previous)


def drop_messages(texts: tuple[str, ...]) -> None:
    """Drop log messages with one of these texts.

    The root logger keeps the filter, and with it all that its module has imported, until the
    interpreter has ended; so it is in this module, which imports nothing that complains then.
    """
    logging.getLogger().addFilter(lambda record: not any(text in str(record.msg) for text in texts))
