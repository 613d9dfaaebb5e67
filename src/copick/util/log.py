"""Loggers for programs and plugins."""

from __future__ import annotations

import logging
import sys


class _Stderr(logging.Handler):
    """Shows records, unless the program has set up logging itself."""

    def emit(self, record: logging.LogRecord) -> None:
        if logging.root.handlers or sys.stderr is None:
            return
        try:
            # Looked up each time: progress bars and test runners put their own in its place.
            print(self.format(record), file=sys.stderr)
        except Exception:  # noqa: BLE001 (as every handler of the standard library does)
            self.handleError(record)


def get_logger(name: str, debug: bool = False) -> logging.Logger:
    """The logger of that name, whose messages (INFO and above) are seen on stderr.

    Where the program has set up logging, only that counts. Otherwise the first logger of a package gives its
    top-level logger a handler. The root logger is never changed.

    Args:
        name: Usually `__name__`.
        debug: Also show the debug messages of the whole package.
    """
    package = logging.getLogger(name.partition(".")[0])
    if package is not logging.root:
        if not package.handlers and not logging.root.handlers:
            handler = _Stderr()
            handler.setFormatter(
                logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
            )
            package.addHandler(handler)
            if package.level == logging.NOTSET:
                package.setLevel(logging.INFO)
        if debug:
            package.setLevel(logging.DEBUG)
    return logging.getLogger(name)
