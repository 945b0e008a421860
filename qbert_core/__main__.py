"""`python -m qbert_core COMMAND ...`"""

import sys

from qbert_core.cli import main

if __name__ == "__main__":  # worker processes import this file, too
    sys.exit(main())
