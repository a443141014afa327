"""Writes the rows of a dataset, and no more of them than the contest allows."""

from __future__ import annotations

import random
import sys


def main() -> None:
    """`check_sample_number.py IN OUT MOST`; a draw with a fixed seed where there are more."""
    source, target, most = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with open(source, encoding="utf-8") as file:
        lines = [line for line in file if line.strip()]
    if len(lines) > most:
        print(f"{len(lines)} samples, of which {most} are drawn")
        lines = random.Random(1024).sample(lines, most)
    with open(target, "w", encoding="utf-8") as file:
        file.writelines(lines)


if __name__ == "__main__":
    main()
