"""The entry of an algorithm's program: `python -m localaws.algorithms train|serve ALGORITHM`."""

import os
import sys

from dropmill.algorithms import ALGORITHMS

USAGE = f"usage: python -m localaws.algorithms train|serve {'|'.join(ALGORITHMS)}"
# scikit-learn's OpenMP loops stand a busy machine; OpenBLAS's threads wait for each other by spinning, and on a machine
# whose cores are taken a small matrix product then takes ten times as long as with one thread. Not more than two for
# OpenMP: two partial sums add up to the same in either order, so the same rows give the same model to the bit.
OPENMP_THREADS = 2


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in ("train", "serve") or arguments[1] not in ALGORITHMS:
        print(USAGE, file=sys.stderr)
        return 2
    action, name = arguments
    # Before numpy is imported, because the libraries read these once.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", str(min(OPENMP_THREADS, os.cpu_count() or 1)))

    from localaws.algorithms.programs import serve, train

    return train(name) if action == "train" else serve(name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
