"""A Docker engine, and the image of the Lambda runtime in it."""

import ipaddress
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from localaws.template import load
from tools.sam.build import CACHE, TEMPLATE, Missing

IMAGE_PROGRAM = "DROPMILL_LAMBDA_IMAGE"
"""Names a program that starts an engine where none answers, and tags a stand-in for AWS's image with no registry."""

_REPOSITORY = "public.ecr.aws/lambda/python"
_START_SECONDS = 60
_PROGRAM_SECONDS = 280
_PULL_SECONDS = 180
_PID_FILE = Path("/var/run/docker.pid")
HOST_NAME = "host.docker.internal"
"""By which containers reach this machine, here and with Docker Desktop alike."""


@dataclass(frozen=True)
class Image:
    tag: str
    identity: str
    """Docker's id of it, shortened."""
    origin: str
    """Whose it is, in words."""

    def __str__(self) -> str:
        return f"{self.tag} {self.identity} ({self.origin})"


@dataclass(frozen=True)
class Host:
    """This machine as containers see it."""

    listen: str
    """The address that a server for containers listens on."""
    seen_as: str
    """What containers take for it: an address, or `host-gateway` where Docker knows better."""


def _docker(*arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=seconds, check=False)


def _answers() -> bool:
    try:
        return _docker("info").returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _engine_pid() -> int | None:
    """The process of the engine that runs on this machine, if it is one that writes its id down."""
    try:
        pid = int(_PID_FILE.read_text())
        return pid if Path(f"/proc/{pid}/comm").read_text().strip() == "dockerd" else None
    except (OSError, ValueError):
        return None


@contextmanager
def engine() -> Iterator[None]:
    """A Docker engine that answers: one that runs already, which stays, or one that ends with this.

    Raises Missing where none can be had.
    """
    if _answers():
        yield
        return
    pid = _start()
    try:
        yield
    finally:
        _end(pid)


def _start() -> int:
    """Start an engine; returns its process."""
    program = os.environ.get(IMAGE_PROGRAM)
    installed = shutil.which("docker") and shutil.which("dockerd")
    if platform.system() != "Linux":
        raise Missing("no Docker engine answers: start Docker Desktop, or what you have in its place")
    if os.geteuid() != 0:
        raise Missing(
            "no Docker engine answers (or you may not use it: see the docker group), and only root can start one;"
            " try: sudo systemctl start docker"
        )
    if installed:
        return _start_installed()
    if program:
        _say(f"no Docker engine is installed; {Path(program).name} brings one")
        _run_program(program)
        pid = _engine_pid()
        if pid is None or not _answers():
            raise Missing(f"{program} has left no Docker engine running")
        return pid
    raise Missing("no Docker engine is installed; on Debian: apt-get install docker.io iptables")


def _start_installed() -> int:
    CACHE.mkdir(parents=True, exist_ok=True)
    log = CACHE / "dockerd.log"
    with log.open("w") as written:
        # A session of its own: Ctrl-C here must not end it before it is asked to, with containers still running.
        process = subprocess.Popen(["dockerd"], stdout=written, stderr=written, start_new_session=True)
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if _answers():
            _say("started a Docker engine, which ends with this")
            return process.pid
        time.sleep(0.2)
    process.terminate()
    process.wait(30)
    raise Missing(f"dockerd was started and does not answer; what it says is in {log}")


def _end(pid: int) -> None:
    """End an engine that was started here, and its containers with it."""
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return
        except ChildProcessError:
            if not Path(f"/proc/{pid}").exists():
                return
        time.sleep(0.1)
    _say(f"the Docker engine {pid} does not end")


def _say(words: str) -> None:
    sys.stderr.write(f"{words}\n")


def _run_program(program: str) -> None:
    try:
        subprocess.run([program], check=True, timeout=_PROGRAM_SECONDS, stdout=sys.stderr)
    except (OSError, subprocess.SubprocessError) as error:
        raise Missing(f"{IMAGE_PROGRAM} names {program}, which made no image: {error}") from None


def runtime_tag() -> str:
    """The image that SAM CLI takes for the template's runtime."""
    shared = load(TEMPLATE)["Globals"]["Function"]
    (architecture,) = shared["Architectures"]
    return f"{_REPOSITORY}:{str(shared['Runtime']).removeprefix('python')}-{architecture}"


def _image(tag: str) -> Image | None:
    found = _docker("image", "inspect", tag)
    if found.returncode:
        return None
    (told,) = json.loads(found.stdout)
    pulled = any(digest.startswith(f"{_REPOSITORY}@") for digest in told["RepoDigests"] or [])
    identity = told["Id"].removeprefix("sha256:")[:12]
    return Image(tag, identity, "AWS's own" if pulled else "a stand-in made here")


def image() -> Image:
    """The Lambda runtime's image: AWS's own where it can be pulled, else one that is there, else a stand-in.

    Raises Missing where none can be had.
    """
    tag = runtime_tag()
    before = _image(tag)
    try:
        why = _docker("pull", "--quiet", tag, seconds=_PULL_SECONDS).stderr.strip()
    except subprocess.TimeoutExpired:
        why = f"nothing came within {_PULL_SECONDS} s"
    found = _image(tag)
    if found is None:
        program = os.environ.get(IMAGE_PROGRAM)
        if not program:
            raise Missing(
                f"{tag} can't be pulled ({why}), and {IMAGE_PROGRAM} names no program that makes a stand-in for it"
            )
        _say(f"{tag} can't be pulled ({why}); {Path(program).name} makes a stand-in")
        _run_program(program)
        found = _image(tag)
        if found is None:
            raise Missing(f"{program} made no image {tag}")
    if before is None or before.identity != found.identity:
        # SAM CLI builds its own upon it, and would not do so again.
        _docker("image", "rm", "--force", re.sub(r":([\d.]+)-", r":\1-rapid-", tag))
    return found


def host() -> Host:
    """How containers reach a server on this machine."""
    told = json.loads(_docker("network", "inspect", "bridge", "--format", "{{json .IPAM.Config}}").stdout or "[]")
    if told:
        address = str(told[0].get("Gateway") or next(ipaddress.ip_network(told[0]["Subnet"]).hosts()))
        with socket.socket() as probe:
            try:
                probe.bind((address, 0))
            except OSError:
                pass  # the engine has a machine of its own, as Docker Desktop's has
            else:
                return Host(address, address)
    return Host("127.0.0.1", "host-gateway")


_PROBE = """
import pathlib, socket, sys
pathlib.Path("/var/task/probe").read_bytes()
socket.create_connection((sys.argv[1], int(sys.argv[2])), 20).close()
"""


def check_containers(image: Image, host: Host) -> None:
    """See that a container starts, finds a folder of this machine and reaches a server on it, as every function must.

    Raises Missing where it does not: an engine within a container or a sandbox may answer all the same.
    """
    folder = CACHE / "probe"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "probe").touch()
    version = re.sub(r".*:([\d.]+)-.*", r"\1", image.tag)
    with socket.create_server((host.listen, 0)) as server:
        told = [HOST_NAME, str(server.getsockname()[1])]
        try:
            done = _docker(
                *("run", "--rm", "--add-host", f"{HOST_NAME}:{host.seen_as}"),
                *("--volume", f"{folder}:/var/task:ro", "--entrypoint", f"/var/lang/bin/python{version}"),
                *(image.tag, "-c", _PROBE, *told),
            )
            why = (done.stderr.strip() or "it failed").splitlines()[-1] if done.returncode else ""
        except subprocess.TimeoutExpired as error:
            why = f"nothing within {error.timeout:.0f} s"
    if why:
        raise Missing(f"a Docker engine answers, but its containers can't be used here: {why}")
