"""`python -m workers.cli` is `wa-ingest`."""

import os
import sys
from pathlib import Path

from workers.cli.main import main

ROOT = str(Path(__file__).parents[2])

if sys.path[0] == ROOT:
    # In a checkout that need not be installed: the children, which do not look in the working folder, find it, too.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))

main()
