"""The file that a model is kept in: `model_algo-1`, for some algorithms a zip of members."""

import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ARTIFACT = "model_algo-1"
JSON_BYTES_MAX = 1024 * 1024
PARAMETERS_BYTES_MAX = 4 * 1024**3

_MEMBERS_MAX = 16

UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RecursionError,
    zipfile.BadZipFile,
    NotImplementedError,
)
"""What reading a foreign artifact may raise."""


@contextmanager
def placed(folder: Path, name: str) -> Iterator[Path]:
    """A path to write a file of the model to, which gets its name once it is whole."""
    partial = folder / f".{name}.partial"
    yield partial
    partial.replace(folder / name)


def write(folder: Path, data: bytes, name: str = ARTIFACT) -> None:
    """Write a file of the model whole or not at all."""
    with placed(folder, name) as partial:
        partial.write_bytes(data)


def write_zip(folder: Path, members: Mapping[str, bytes | str]) -> None:
    """Write the members without their times: the same model is the same file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    write(folder, buffer.getvalue())


def read_zip(folder: Path, most: Mapping[str, int]) -> dict[str, bytes]:
    """The members named in `most`, each of at most so many bytes. Raises one of UNREADABLE."""
    with zipfile.ZipFile(folder / ARTIFACT) as archive:
        if len(archive.infolist()) > _MEMBERS_MAX:
            raise ValueError("it has too many members")
        for name, limit in most.items():
            if archive.getinfo(name).file_size > limit:
                raise ValueError(f"{name} is too large")
        return {name: archive.read(name) for name in most}
