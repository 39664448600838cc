"""Keeps AWS's own addresses on this machine. Python imports this at start, from the PYTHONPATH of `dropmill exec`.

AWS clients follow AWS_ENDPOINT_URL, but some code names an address of AWS outright: the SageMaker SDK asks
`https://sts.<region>.amazonaws.com` who it is, and reports its use to a bucket's address. Whatever goes through urllib3
(botocore, requests) to such a name is sent to AWS_ENDPOINT_URL instead, with the name in its Host header; for
everything else in Python such names don't resolve.

The SDK and botocore's waiters look every ten to sixty seconds whether a job has ended, which suits jobs of minutes;
here jobs take seconds, so the clock of those two modules goes faster, and nobody else's.

Nothing here imports more than the standard library, or anything at all before the program does. It runs in the
program's own Python, which may be older than the one dropmill needs.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import socket
import sys
import time
from urllib.parse import urlsplit

TYPE_CHECKING = False  # typing's own takes time to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# The suffixes of AWS's partitions, and of their dual-stack endpoints.
AWS_SUFFIXES = (
    ".amazonaws.com",
    ".amazonaws.com.cn",
    ".api.aws",
    ".on.aws",
    ".api.amazonwebservices.com.cn",
    ".amazonaws.eu",
    ".api.amazonwebservices.eu",
    ".c2s.ic.gov",
    ".sc2s.sgov.gov",
    ".cloud.adc-e.uk",
    ".csp.hci.ic.gov",
)
_PACE = 20


def is_aws(host: object) -> bool:
    """Whether a host's name is one of AWS's."""
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    return isinstance(host, str) and ("." + host.rstrip(".").lower()).endswith(AWS_SUFFIXES)


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: names of AWS don't resolve."""
    if event in ("socket.getaddrinfo", "socket.gethostbyname") and is_aws(arguments[0]):
        raise socket.gaierror(socket.EAI_NONAME, f"dropmill exec keeps {arguments[0]} away: use AWS_ENDPOINT_URL")


def redirect(poolmanager: Any, address: tuple[str, int]) -> None:
    """Make urllib3's pools for AWS's names connect to `address` (host, port), without TLS."""
    plain: Any = sys.modules["urllib3.connectionpool"].HTTPConnectionPool

    def connect(connection: Any) -> socket.socket:
        return socket.create_connection(address, connection.timeout)

    pool: Any = type(
        "Pool", (plain,), {"ConnectionCls": type("Connection", (plain.ConnectionCls,), {"_new_conn": connect})}
    )
    find = poolmanager.PoolManager.connection_from_host

    def connection_from_host(
        self: Any, host: str | None, port: int | None = None, scheme: str | None = "http", pool_kwargs: Any = None
    ) -> Any:
        if not is_aws(host):
            return find(self, host, port, scheme, pool_kwargs)
        kept = vars(self).setdefault("_embedded_pools", {})
        # Port 80 stays out of the Host header, by which a bucket's own address is known.
        return kept.get(host) or kept.setdefault(host, pool(host, 80, maxsize=10))

    poolmanager.PoolManager.connection_from_host = connection_from_host


class FastTime:
    """The module `time`, with a clock that goes faster, so that both pauses and what is counted in them get shorter."""

    def __init__(self) -> None:
        self._start = time.time()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def time(self) -> float:
        return self._start + (time.time() - self._start) * _PACE

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / _PACE)


def hurry(module: Any) -> None:
    """Let a module's clock go faster."""
    if getattr(module, "time", None) is time:
        module.time = FastTime()


class Finder:
    """Changes modules as soon as they are imported, if they ever are."""

    def __init__(self, changes: dict[str, Callable[[Any], None]]) -> None:
        self.changes = changes

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        change = self.changes.get(name)
        if change is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            change(module)

        loader.exec_module = exec_module
        return spec


def run_next(folder: str) -> None:
    """Run the sitecustomize that this one stands before."""
    path = [entry for entry in sys.path if os.path.realpath(entry) != folder]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


def install() -> None:
    """Stand between this process and AWS, if AWS_ENDPOINT_URL says where to send what is meant for it."""
    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL", ""))
    if endpoint.scheme == "http" and endpoint.hostname:
        address = (endpoint.hostname, endpoint.port or 80)
        changes: dict[str, Callable[[Any], None]] = {
            "urllib3.poolmanager": lambda module: redirect(module, address),
            "sagemaker.session": hurry,
            "botocore.waiter": hurry,
        }
        sys.meta_path.insert(0, Finder(changes))
        sys.addaudithook(refuse)


if __name__ == "sitecustomize":
    install()
    run_next(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120  # pathlib would be imported for every program
