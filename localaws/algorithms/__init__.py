"""SageMaker's built-in algorithms as programs of their own, under SageMaker's container contract.

`python -m localaws.algorithms train kmeans` trains, `... serve kmeans` serves. The environment says where:

- `SAGEMAKER_BASE_DIR`: the folder that stands for `/opt/ml` (that is the default);
- `SAGEMAKER_BIND_TO_PORT`: the port on 127.0.0.1 to serve on (default 8080).

Exit codes: 0 done; 2 the customer's error; 1 the algorithm's. Both errors are told in `output/failure`.
"""

import sys
from typing import Literal

from dropmill.algorithms import ALGORITHMS, UnknownAlgorithm

Action = Literal["train", "serve"]


def command(repository: str, action: Action) -> list[str]:
    """The command line of the program for an image's repository, such as `kmeans`. Raises UnknownAlgorithm."""
    if all(algorithm.repository != repository for algorithm in ALGORITHMS.values()):
        raise UnknownAlgorithm(
            f"there is no program for the image {repository[:80]!r}; there are {', '.join(ALGORITHMS)}"
        )
    return [sys.executable, "-m", "localaws.algorithms", action, repository]
