"""`python -m app.examine PATH`: open an uploaded model or data file, under limits, and end.

Whatever a hostile file still breaks, breaks here: this process holds nothing but the file.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from qbert_core.errors import InputError
from qbert_core.jsonfile import cause, printable

MEMORY = 4 * 2**30  # bytes of address space beyond what the libraries take
SECONDS = 100  # of processor time
WRITTEN = 2**20  # bytes of a file it may write; it has none to write


def limit() -> None:
    """Set the limits of this process. Libraries are loaded before: they take gigabytes of addresses."""
    limits = [(resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_FSIZE, WRITTEN), (resource.RLIMIT_CORE, 0)]
    status = Path("/proc/self/status")
    if status.exists():  # on Linux; elsewhere nothing says how much is taken already
        lines = status.read_text().splitlines()
        taken = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize:"))
        limits.append((resource.RLIMIT_AS, taken + MEMORY))
    for kind, most in limits:
        resource.setrlimit(kind, (most, most))


def examine(path: Path) -> None:
    """Raise `InputError` unless the product can open what is at `path`: a folder is a model."""
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.quantization.trained import load_trained
    from qbert_core.tasks.data import read_table

    limit()
    if path.is_dir():
        checkpoint = load_checkpoint(path)
        load_trained(path, checkpoint.config)
    else:
        read_table(path)


if __name__ == "__main__":
    try:
        examine(Path(sys.argv[1]))
    except InputError as error:
        print(f"error: {printable(str(error), 1200)}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:  # memory, or what no check foresaw: the file is refused all the same
        print(f"error: {sys.argv[1]}: cannot be opened: {cause(error)}", file=sys.stderr)
        sys.exit(2)
