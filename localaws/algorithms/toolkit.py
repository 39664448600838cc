"""SageMaker's container contract, apart from any algorithm: folders, hyperparameters, log lines, failures."""

import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CUSTOMER_ERROR = 2
ALGORITHM_ERROR = 1

_FAILURE_CHARACTERS = 1024
_CONFIG_BYTES_MAX = 1024 * 1024

log = logging.getLogger("algorithm")


class UserError(Exception):
    """The caller can mend it: a hyperparameter, the data, a request."""


@dataclass(frozen=True)
class Container:
    """The folder that stands for `/opt/ml`."""

    base: Path

    @classmethod
    def here(cls) -> "Container":
        return cls(Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")))

    @property
    def model(self) -> Path:
        return self.base / "model"

    @property
    def failure(self) -> Path:
        return self.base / "output" / "failure"

    def channel(self, name: str) -> Path:
        return self.base / "input" / "data" / name

    def config(self, name: str) -> dict[str, Any]:
        """`input/config/<name>.json`, empty if there is none. Raises UserError."""
        path = self.base / "input" / "config" / f"{name}.json"
        try:
            if path.stat().st_size > _CONFIG_BYTES_MAX:
                raise UserError(f"{name}.json is larger than {_CONFIG_BYTES_MAX} bytes")
            value = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as error:
            raise UserError(f"{name}.json is not JSON") from error
        if not isinstance(value, dict):
            raise UserError(f"{name}.json must be an object")
        return value

    def hyperparameters(self) -> dict[str, str]:
        """`hyperparameters.json`: a flat object of strings. Raises UserError."""
        given = self.config("hyperparameters")
        for name, value in given.items():
            if not isinstance(value, str):
                raise UserError(f"hyperparameter {name!r} must be a string")
        return given

    def hosts(self) -> list[str]:
        """The names of all instances, in order. Raises UserError."""
        hosts = self.config("resourceconfig").get("hosts") or ["algo-1"]
        if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
            raise UserError("resourceconfig.json: hosts must be a list of names")
        return sorted(hosts, key=lambda host: (len(host), host))

    def host(self) -> str:
        """This instance's name. Raises UserError."""
        return str(self.config("resourceconfig").get("current_host", "algo-1"))

    def fail(self, message: str) -> None:
        """Leave the reason where SageMaker looks for it."""
        self.failure.parent.mkdir(parents=True, exist_ok=True)
        self.failure.write_text(message[:_FAILURE_CHARACTERS], encoding="utf-8")


def start_logging() -> None:
    """Log as the built-in algorithms do: `[11/24/2020 18:53:57 INFO 140513285547840] text`, on standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        logging.Formatter("[%(asctime)s %(levelname)s %(thread)d] %(message)s", datefmt="%m/%d/%Y %H:%M:%S")
    )
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


@dataclass(frozen=True)
class Reporter:
    """The log lines that SageMaker reads metrics from."""

    host: str
    algorithm: str

    def quality(self, channel: str, name: str, value: float, *, goal: str, epoch: int | None = None) -> None:
        """A metric of a channel. `goal` is `loss` or `score`: less or more is better."""
        when = "" if epoch is None else f"epoch={epoch}, "
        log.info("#quality_metric: host=%s, %s%s %s <%s>=%r", self.host, when, channel, name, goal, float(value))

    def scores(self, channel: str, values: Mapping[str, tuple[float, str]]) -> None:
        """The final metrics of a channel: name to (value, goal)."""
        for name, (value, _goal) in values.items():
            log.info("#%s_score (%s) : (%r, %r)", channel, self.host, name, float(value))
        for name, (value, goal) in values.items():
            self.quality(channel, name, value, goal=goal)

    def progress(self, done: int, epochs: int) -> None:
        log.info("#progress_metric: host=%s, completed %s %% of epochs", self.host, round(100 * done / epochs, 2))

    def throughput(self, records: int, seconds: float) -> None:
        rate = records / max(seconds, 1e-9)
        log.info("#throughput_metric: host=%s, train throughput=%r records/second", self.host, rate)

    def metrics(self, start: float, end: float, values: Mapping[str, float], **dimensions: object) -> None:
        """The JSON line that the SageMaker console charts. `start` and `end` are seconds of the epoch."""
        document = {
            "StartTime": start,
            "EndTime": end,
            "Dimensions": {"Algorithm": self.algorithm, "Host": self.host, "Operation": "training", **dimensions},
            "Metrics": {
                name: {"sum": value, "count": 1, "min": value, "max": value}
                for name, value in values.items()
                if math.isfinite(value)
            },
        }
        print(f"#metrics {json.dumps(document)}", flush=True)
