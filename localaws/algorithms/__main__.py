"""The entry of an algorithm's program: `python -m localaws.algorithms train|serve ALGORITHM`."""

import os
import sys

from dropmill.algorithms import ALGORITHMS

USAGE = f"usage: python -m localaws.algorithms train|serve {'|'.join(ALGORITHMS)}"
TRAINING_THREADS = 4


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in ("train", "serve") or arguments[1] not in ALGORITHMS:
        print(USAGE, file=sys.stderr)
        return 2
    action, name = arguments
    # Before numpy is imported, because OpenBLAS reads it once. Serving answers small requests, often several at a time.
    threads = 1 if action == "serve" else min(TRAINING_THREADS, os.cpu_count() or 1)
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, str(threads))

    from localaws.algorithms.programs import serve, train

    return train(name) if action == "train" else serve(name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
