"""`python -m hfgpt.bench`: as `hfgpt bench`, where only torch, transformers and accelerate are installed."""

import sys

from hfgpt.bench.command import main
from hfgpt.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
