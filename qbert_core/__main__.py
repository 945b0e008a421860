"""`python -m qbert_core COMMAND ...`"""

import sys

from qbert_core.cli import main

sys.exit(main())
