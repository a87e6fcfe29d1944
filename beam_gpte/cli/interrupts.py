"""End a program that Ctrl-C interrupts: within seconds, in one line, whatever its threads do.

first signal --> `KeyboardInterrupt` --> locks and private folders are given back --> the line
|                                                                                 ^
+--> a timer, should that take long ----------------------------------------------+
second signal --> the end, at once
"""

import atexit
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

from beam_gpte.cli.escaped_output import escaped

EXIT_CODE = 130
GRACE_SECONDS = 3.0  # for what was begun; a model may be at a batch for long
EXIT_SECONDS = 1.0  # for what is done at the end of the interpreter


class Interrupts:
    """Handle SIGINT for a program, from now on.

    Args:
      command: begins the line.
      line: what is kept, and how to go on.
    """

    def __init__(self, command: str, line: str) -> None:
        self._text = f"{command}: interrupted; {line}"
        self._begun, self._out = False, sys.stderr  # which a job redirects
        self._ending = threading.Lock()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._begun:
            os._exit(EXIT_CODE)
        self._begun = True
        _later(GRACE_SECONDS, self.end)
        raise KeyboardInterrupt

    def end(self) -> NoReturn:
        """Print the line, and end the process."""
        with self._ending:  # which is not given back
            print(f"\n{self._text}", file=escaped(self._out), flush=True)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what workers say that are cut off
            _later(EXIT_SECONDS, lambda: os._exit(EXIT_CODE))
            leave(EXIT_CODE)


def leave(code: int) -> NoReturn:
    """End the process at once.

    Workers of a job that was canceled may be threads of this process. One that is still in native
    code when the interpreter is taken down aborts the process. And taking down what torch and Beam
    have made takes a tenth of the CPU time of a short program.
    """
    atexit._run_exitfuncs()  # which end a Prism that was started here
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough
        pass
    except OSError as error:  # a full disk
        print(f"standard output: {error}", file=sys.stderr)
        code = code or 1
    sys.stderr.flush()
    os._exit(code)


def _later(seconds: float, call: object) -> None:
    timer = threading.Timer(seconds, call)  # type: ignore[arg-type]
    timer.daemon = True
    timer.start()
