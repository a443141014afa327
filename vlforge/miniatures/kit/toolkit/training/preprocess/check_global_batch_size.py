"""Prints whether GPUs x batch x accumulation is the number that the contest asks for."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """`check_global_batch_size.py BATCH ACCUMULATION WANTED`."""
    batch, accumulation, wanted = map(int, sys.argv[1:4])
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = max(1, len([name for name in listed.split(",") if name.strip()]))
    print(gpus * batch * accumulation == wanted)


if __name__ == "__main__":
    main()
