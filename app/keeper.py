"""`python keeper.py COMMAND ...`: runs a job's command, and ends all its processes when the server ends.

The server holds the other end of standard input, which the system closes however the server ended. This is
a process of its own because a job may be stopped, or hold the interpreter for seconds inside a library. It
leads the group that the command and its workers belong to. Standard library only: it starts in no time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading


def end_all() -> None:
    """Kill the group: the command, its workers, and this process."""
    os.killpg(0, signal.SIGKILL)


def follow_server() -> None:
    """Return when the server has ended."""
    while os.read(0, 4096):
        pass


def main(command: list[str]) -> None:
    """Run `command`; say how it ended in a line on standard error, `{"exit": CODE}`; end what it left."""
    if os.getpgrp() != os.getpid():
        sys.exit("error: the keeper must lead a process group of its own")
    # a handler and not SIG_IGN, which the command would inherit: it is the one that is asked to stop
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.exit(f"error: the process could not be started: {error.strerror}")

    def watch() -> None:
        follow_server()
        end_all()

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    os.write(2, f"\n{json.dumps({'exit': code})}\n".encode())  # one write: a worker's line stays whole
    end_all()


if __name__ == "__main__":
    main(sys.argv[1:])
