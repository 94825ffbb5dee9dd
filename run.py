"""One cell, or a sweep of them: `wcx key=value ...`, from a checkout; see wcx/cli/commands/run.py."""

from wcx.cli import main

if __name__ == "__main__":
    main("run")
