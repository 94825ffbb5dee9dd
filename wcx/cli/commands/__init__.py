"""The commands of `wcx`: one file each, named like it, with a function `main`; its first line is what the list says of it."""
