"""Serves a model as the built-in algorithms do: `GET /ping`, `POST /invocations`."""

import json
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dropmill.algorithms import Algorithm
from dropmill.algorithms.predictions import CSV, JSON, JSON_LINES, RECORDIO
from dropmill.data import recordio, recordio_sparse
from dropmill.data.recordio_sparse import SparseMatrix
from localaws.algorithms.channels import Features, dense, finite, label_size, media_type, read_csv
from localaws.algorithms.toolkit import UserError, log

FloatArray = NDArray[np.float32]
Answer = dict[str, FloatArray]

BODY_BYTES_MAX = 100 * 1024 * 1024  # the most that a batch transform may be told to send at once
_DENSE_BYTES_MAX = 1024**3
_SOCKET_SECONDS = 60


class Refused(Exception):
    """The request gets a 4xx with this text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


# Requests


def parse_request(body: bytes, content_type: str, algorithm: Algorithm, feature_dim: int) -> Features:
    """The rows [n, feature_dim] of a request; sparse only if the algorithm takes such. Raises Refused."""
    kind, parameters = media_type(content_type)
    if kind not in algorithm.request_content_types:
        accepted = ", ".join(algorithm.request_content_types)
        raise Refused(415, f"content type {kind[:80]!r} is not supported by {algorithm.name}: use {accepted}")
    try:
        if kind == CSV:
            features: Features = _parse_csv(body, label_size(parameters, default=0))
        elif kind == RECORDIO:
            features = recordio_sparse.read_any(body)[0]
        elif kind == JSON:
            features = _rows(_instances(_json(body)), feature_dim)
        else:
            features = _rows([_json(line) for line in body.splitlines() if line.strip()], feature_dim)
        if not algorithm.takes_sparse and (not len(features) or features.shape[1] == feature_dim):
            features = dense(features, _DENSE_BYTES_MAX)
    except (UserError, recordio.RecordIOError) as error:
        raise Refused(400, f"unable to evaluate payload provided: {error}") from None
    if not len(features):
        raise Refused(400, "unable to evaluate payload provided: it holds no rows")
    if features.shape[1] != feature_dim:
        raise Refused(
            400,
            f"unable to evaluate payload provided: rows have {features.shape[1]} features, the model has {feature_dim}",
        )
    if not finite(features):
        raise Refused(400, "unable to evaluate payload provided: a feature is not a finite number")
    return features


def _parse_csv(body: bytes, labels: int) -> FloatArray:
    try:
        lines = [line for line in body.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UserError("the CSV is not UTF-8") from None
    return read_csv(lines, labels, "CSV").features if lines else np.empty((0, 0), np.float32)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError("it is not JSON") from None


def _instances(document: Any) -> list[Any]:
    instances = document.get("instances") if isinstance(document, dict) else None
    if not isinstance(instances, list):
        raise UserError('JSON must be of the form {"instances": [...]}')
    return instances


def _rows(instances: list[Any], feature_dim: int) -> Features:
    """Rows of `{"features": [..]}`, `{"data": {"features": {"values": [..]}}}` or the latter with keys and shape."""
    rows = [_row(instance, feature_dim) for instance in instances]
    if not rows:
        return np.empty((0, 0), np.float32)
    if len({len(values) if keys is None else feature_dim for values, keys in rows}) > 1:
        raise UserError("its rows have different numbers of features")
    if all(keys is None for _values, keys in rows):
        return _numbers([values for values, _keys in rows], 2)
    return SparseMatrix.joined([_sparse(values, keys, feature_dim) for values, keys in rows])


def _row(instance: Any, feature_dim: int) -> tuple[list[Any], list[int] | None]:
    """The values of a row, and their columns if it is sparse."""
    if not isinstance(instance, dict):
        raise UserError("an instance must be an object")
    data = instance.get("data", instance)
    features = data.get("features") if isinstance(data, dict) else None
    if isinstance(features, list):
        return features, None
    if not isinstance(features, dict) or not isinstance(features.get("values"), list):
        raise UserError('an instance must hold "features"')
    values: list[Any] = features["values"]
    if "keys" not in features and "shape" not in features:
        return values, None
    keys, shape = features.get("keys"), features.get("shape")
    if not isinstance(keys, list) or not all(type(key) is int and 0 <= key < feature_dim for key in keys):
        raise UserError(f"the keys of a sparse row must be whole numbers from 0 to {feature_dim - 1}")
    if shape != [feature_dim]:
        raise UserError(f"the shape of a sparse row must be [{feature_dim}]")
    if len(keys) != len(values) or len(set(keys)) != len(keys):
        raise UserError("a sparse row must have one value for each key, and each key once")
    return values, keys


def _sparse(values: list[Any], keys: list[int] | None, feature_dim: int) -> SparseMatrix:
    if keys is None:
        return SparseMatrix.of(_numbers([values], 2))
    return SparseMatrix(_numbers(values, 1), np.array(keys, np.int64), np.array([0, len(keys)], np.int64), feature_dim)


def _numbers(values: list[Any], dimensions: int) -> FloatArray:
    try:
        array = np.array(values)
    except ValueError:
        raise UserError("features must be lists of numbers") from None
    if array.ndim != dimensions:
        raise UserError("features must be lists of numbers")
    if array.dtype.kind not in "iuf" and array.size:
        raise UserError("features must be numbers")
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, which is refused later
        return array.astype(np.float32)


# Answers


def choose_accept(accept: str, algorithm: Algorithm) -> str:
    """The content type of the answer: the first that is asked for and documented. Raises Refused."""
    asked = [media_type(part)[0] for part in accept.split(",")]
    for kind in asked:
        if kind in ("", "*/*", "application/*"):
            return JSON
        if kind in algorithm.response_content_types:
            return kind
    offered = ", ".join(algorithm.response_content_types)
    raise Refused(406, f"accept type {accept[:80]!r} is not supported by {algorithm.name}: use {offered}")


def asks_verbose(accept: str, algorithm: Algorithm) -> bool:
    """Whether the answer shall tell all that it can, as in `application/json; verbose=true`."""
    for part in accept.split(","):
        kind, parameters = media_type(part)
        if kind in ("", "*/*", "application/*", *algorithm.response_content_types):
            return parameters.get("verbose", "").lower() == "true"
    return False


def render_answer(answer: Answer, accept: str) -> bytes:
    """The answer in one of the documented forms; numbers are floats everywhere, labels and clusters too."""
    if accept == RECORDIO:
        return _records(answer)
    columns = {name: values.tolist() for name, values in answer.items()}
    if accept == CSV:
        # Documented order: closest_cluster, distance_to_cluster.
        return "".join(f"{','.join(map(repr, row))}\n" for row in zip(*_sorted(columns), strict=True)).encode()
    elements = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if accept == JSON_LINES:
        return "".join(f"{json.dumps(element)}\n" for element in elements).encode()
    return json.dumps({"predictions": elements}).encode()


def _sorted(columns: Mapping[str, list[Any]]) -> Iterable[list[Any]]:
    return (columns[name] for name in sorted(columns))


def _records(answer: Answer) -> bytes:
    """RecordIO frames of one `aialgs.data.Record` for each row, with the fields in its `label` map."""
    rows = len(next(iter(answer.values())))
    pieces: list[bytes | FloatArray] = []
    length = 0
    for name, values in answer.items():
        columns = values.reshape(rows, -1).astype("<f4")
        prefix = _entry(name.encode(), 4 * columns.shape[1])
        pieces += [prefix, columns]
        length += len(prefix) + 4 * columns.shape[1]
    head = struct.pack("<II", recordio.MAGIC, length)
    block = np.zeros((rows, len(head) + length + -length % 4), np.uint8)
    at = 0
    for piece in (head, *pieces):
        raw = np.frombuffer(piece, np.uint8) if isinstance(piece, bytes) else np.ascontiguousarray(piece).view(np.uint8)
        block[:, at : at + raw.shape[-1]] = raw
        at += raw.shape[-1]
    return block.tobytes()


def _entry(key: bytes, size: int) -> bytes:
    """What stands before `size` bytes of packed float32 in an entry of Record's `label` map (field 2)."""
    packed = b"\x0a" + _varint(size)
    tensor = b"\x12" + _varint(len(packed) + size) + packed
    value = b"\x12" + _varint(len(tensor) + size) + tensor
    entry = b"\x0a" + _varint(len(key)) + key + value
    return b"\x12" + _varint(len(entry) + size) + entry


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


# The server


class Server(ThreadingHTTPServer):
    """Answers `/ping` and `/invocations` from a model that is already loaded."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        algorithm: Algorithm,
        feature_dim: int,
        predict: Callable[[Any], Answer],
    ) -> None:
        self._algorithm = algorithm
        self._feature_dim = feature_dim
        self._predict = predict
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which looks up the host's name: without a name server that takes seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def answer(self, body: bytes, content_type: str, accept: str) -> tuple[str, bytes]:
        """The content type and body of the answer to a request. Raises Refused."""
        kind = choose_accept(accept, self._algorithm)
        features = parse_request(body, content_type, self._algorithm, self._feature_dim)
        answer = self._predict(features)
        keys = self._algorithm.answer_keys
        if asks_verbose(accept, self._algorithm):
            keys += self._algorithm.verbose_keys
        return kind, render_answer({key: values for key, values in answer.items() if key in keys}, kind)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = _SOCKET_SECONDS
    wbufsize = -1  # head and body leave together

    def do_GET(self) -> None:
        if self.path == "/ping":
            self._send(200, "text/plain", b"")
        else:
            self._send(404, "text/plain", b"there are GET /ping and POST /invocations")

    def do_POST(self) -> None:
        body = self._body()
        if body is None:
            return
        if self.path != "/invocations":
            self._send(404, "text/plain", b"there are GET /ping and POST /invocations")
            return
        try:
            content_type, accept = (self.headers.get(name, "") for name in ("Content-Type", "Accept"))
            kind, answer = self.server.answer(body, content_type, accept)
        except Refused as error:
            self._send(error.status, "text/plain", str(error).encode())
        except Exception as error:  # noqa: BLE001 -- one request must not take the server with it
            log.error("Algorithm Error: %s", type(error).__name__)
            self._send(500, "text/plain", b"Internal Server Error")
        else:
            self._send(200, kind, answer)

    def _body(self) -> bytes | None:
        """The request's body; None after a refusal that leaves the connection unusable."""
        text = self.headers.get("Content-Length", "")
        if not text.isascii() or not text.isdigit():
            self._refuse_unread(411, b"Content-Length is needed")
            return None
        if len(text) > 12 or int(text) > BODY_BYTES_MAX:
            self._refuse_unread(413, b"the request is too large")
            return None
        return self.rfile.read(int(text))

    def _refuse_unread(self, status: int, message: bytes) -> None:
        self.close_connection = True
        self._send(status, "text/plain", message)

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the name in the standard library
        """Requests are not logged: they would drown what matters."""
