"""What an experiment costs: `wcx bench`, from a checkout; see wcx/cli/commands/bench.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from anywhere

from wcx.cli import main

if __name__ == "__main__":
    main("bench")
