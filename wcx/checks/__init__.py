"""Checks: the theory in numbers (one file a part of `wcx verify`, with one function `check`), and what an experiment costs."""
