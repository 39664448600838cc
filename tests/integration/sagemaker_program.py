"""A stand-in for an algorithm's container: does as the `behave` hyperparameter or the BEHAVE variable says."""
# ruff: noqa: T201 - what it prints is its log

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(os.environ["SAGEMAKER_BASE_DIR"])


def train() -> None:
    configuration = ROOT / "input" / "config"
    hyperparameters = json.loads((configuration / "hyperparameters.json").read_text())
    behave = hyperparameters.get("behave", "succeed")
    if behave == "user-error":
        (ROOT / "output" / "failure").write_text("ClientError: k is missing (caused by ValidationError)" + "." * 2000)
        sys.exit(2)
    if behave == "plain-user-error":
        (ROOT / "output" / "failure").write_text("k is missing")
        sys.exit(2)
    if behave == "crash":
        sys.exit(1)
    if behave == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if behave == "judge":
        place = float(hyperparameters["x"])
        for epoch in range(3):
            loss = (place - 0.3) ** 2 + 1 / (epoch + 1)
            print(f"#quality_metric: host=algo-1, epoch={epoch}, test msd <loss>={loss!r}", flush=True)
        if place > 5:
            signal.pause()
    if behave == "flood":
        for number in range(20_000):
            print(f"line {number} {'x' * 200}")
        print("y" * 200_000)
    if behave in ("hang", "stubborn"):
        (ROOT / "model" / "half").write_text("saved before the stop")
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        if behave == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(f"hanging {os.getpid()} {child.pid}", flush=True)
        while True:
            signal.pause()
    if behave == "second-host-fails":
        if json.loads((configuration / "resourceconfig.json").read_text())["current_host"] == "algo-2":
            (ROOT / "output" / "failure").write_text("ClientError: the second host met bad rows")
            sys.exit(2)
        signal.pause()
    data = ROOT / "input" / "data"
    seen = {
        "files": {str(path.relative_to(data)): path.read_text() for path in sorted(data.rglob("*")) if path.is_file()},
        "hyperparameters": hyperparameters,
        "channels": json.loads((configuration / "inputdataconfig.json").read_text()),
        "hosts": json.loads((configuration / "resourceconfig.json").read_text()),
        "environment": dict(os.environ),
    }
    if behave == "tell":
        print("files", json.dumps(seen["files"]))
    print("#quality_metric: host=algo-1, train msd <loss>=2.5")
    print("#quality_metric: host=algo-1, train msd <loss>=1.25")
    print("#quality_metric: host=algo-1, test msd <loss>=nan")
    (ROOT / "model" / "model_algo-1").write_text(json.dumps(seen))
    (ROOT / "output" / "data" / "extra.txt").write_text("extra")


def summed(line: str, content_type: str) -> str:
    if content_type == "text/csv":
        return str(sum(int(cell) for cell in line.split(",")))
    return json.dumps({"sum": sum(json.loads(line)["features"])})


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        print(format % args, flush=True)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer(503 if os.environ.get("BEHAVE") == "sick" else 200, b"")

    refusals = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        behave, content_type = os.environ.get("BEHAVE"), self.headers.get("Content-Type", "")
        if behave == "slow":
            print("asked", flush=True)
            threading.Event().wait()
        if behave == "moody" and Handler.refusals < 2:
            Handler.refusals += 1
            self.answer(503, b"not now")
            return
        if behave in ("echo", "moody", "sum") and b"bad" in body:
            self.answer(400, b"unable to evaluate payload provided")
            return
        if behave in ("echo", "moody"):
            self.answer(200, body, {"Content-Type": content_type})
            return
        if behave == "sum":
            answers = [summed(line, content_type) for line in body.decode().splitlines()]
            self.answer(200, "\n".join(answers).encode(), {"Content-Type": content_type})
            return
        if behave == "short":
            self.answer(200, b"1", {"Content-Type": content_type})
            return
        if behave == "environment":
            names = sorted(name for name in os.environ if name.startswith("SAGEMAKER_") or name == "ASKED")
            chosen = {name: os.environ[name] for name in names if not name.endswith(("_DIR", "_PORT"))}
            self.answer(200, json.dumps(chosen).encode())
            return
        if body == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        if body == b"bad":
            self.answer(400, b"unable to evaluate payload provided")
            return
        told = {
            "variant": os.environ.get("NAME"),
            "model": sorted(path.name for path in (ROOT / "model").iterdir()),
            "bytes": len(body),
            "accept": self.headers.get("Accept"),
            "type": self.headers.get("Content-Type"),
        }
        attributes = self.headers.get("X-Amzn-SageMaker-Custom-Attributes")
        self.answer(
            200,
            json.dumps(told).encode(),
            {"X-Amzn-SageMaker-Custom-Attributes": attributes} if attributes else {},
        )


def serve() -> None:
    if os.environ.get("BEHAVE") == "exit":
        print("no model here")
        sys.exit(3)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler)
    server.daemon_threads = True
    if os.environ.get("BEHAVE") != "stubborn":
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("serving", flush=True)
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    {"train": train, "serve": serve}[sys.argv[1]]()
