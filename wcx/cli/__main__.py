"""`python -m wcx.cli`: the command `wcx`."""

from wcx.cli import main

if __name__ == "__main__":
    main()
