"""Run Beam's Python workers of a host in one process, so that all steps of a job share its models.

    python -m beam_gpte.cli.worker_pool --port 50000

    engine --asks for a worker for each stage--> server --> a thread each, one copy of a model
                                                   ^
                                      supervisor --+  starts it again when it dies

For engines that take `--environment_type EXTERNAL --environment_config localhost:50000`, as Flink
and Spark do. Beam's own pool starts a process for each stage; each imports torch and loads the
model again.
"""

import argparse
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from multiprocessing.connection import Connection, wait

from beam_gpte.core.process import claim_process

PORT = 50000  # what Beam's containers take
PAUSE = 1  # second between the end of a server and the next: a port in use ends each one at once

_log = logging.getLogger("beam_gpte.worker_pool")


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C, with a new process whenever one has ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--port", type=int, default=PORT, help="to listen at (default: %(default)s)"
    )
    port = parser.parse_args(argv).port
    if is_listening("localhost", port):  # gRPC would share it, and two pools mix up their workers
        parser.error(f"port {port} is in use")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while True:
            _log.info("workers are started at port %d", port)
            _log.warning("the worker process ended with exit code %s", _serve_until_it_ends(port))
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        return 0


def is_listening(address: str, port: int) -> bool:
    """Return whether a process takes connections."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
        return True
    return False


def _serve_until_it_ends(port: int) -> int | None:
    """Run a server in a process of its own, which ends with this one; return its exit code."""
    context = multiprocessing.get_context("spawn")  # nothing of this process, threads least of all
    theirs, ours = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(port, theirs))
    process.start()
    theirs.close()
    try:
        wait([process.sentinel])
        return process.exitcode
    finally:
        process.kill()
        process.join()
        ours.close()


def serve(port: int, supervisor: Connection) -> None:
    """Start a worker in a thread whenever an engine asks, until the supervisor has ended."""
    from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

    claim_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor's
    threading.Thread(target=_end_with, args=(supervisor,), daemon=True).start()
    _, server = BeamFnExternalWorkerPoolServicer.start(use_process=False, port=port)
    server.wait_for_termination()


def _end_with(supervisor: Connection) -> None:
    wait([supervisor])
    os._exit(0)  # whatever its threads are at: nobody waits for them


if __name__ == "__main__":
    sys.exit(main())
