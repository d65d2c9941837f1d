"""`python -m kpx` is the command `kpx`, for where no script is installed."""

from __future__ import annotations

from kpx.cli import main

if __name__ == "__main__":
    main(prog_name="kpx")
