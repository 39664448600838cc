"""Any bytes give rows or a named error: never another exception, a crash, a hang or unbounded memory.

DROPMILL_FUZZ_EXAMPLES asks for more examples of each kind than fit into a test run. Readers end the process where
something is wrong with them that Python can't see, so a long run is to be started in a process of its own.
"""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dropmill.contracts import Layout
from dropmill.data import recordio, shards
from dropmill.data.recordio import RecordIOError, SparseMatrix
from dropmill.errors import InvalidDrop
from dropmill.recipe import DataOptions
from tests import hostile
from tests.reading import Files, Read
from tests.spoiled import OPTIONS, WHOLE, any_drops, spoiled_drops

EXAMPLES = int(os.environ.get("DROPMILL_FUZZ_EXAMPLES", "25"))
PROGRAMMERS_WORDS = re.compile(
    r"Traceback|Error\(|Exception|object at 0x|site-packages|\.py\b|pyarrow|numpy\.[a-z_]+\("
)

fuzz = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
options_of = OPTIONS.filter(lambda options: valid(options))


def valid(options: dict[str, Any]) -> bool:
    try:
        DataOptions(**options)
    except ValidationError:
        return False
    return True


def check(files: Files, options: dict[str, Any], piece_bytes: int | None) -> None:
    """Read a drop to its end, divided into pieces of so many bytes, and look at all that comes of it."""
    sizes: dict[str, Any] = {"SHARDS_MAX": shards.SHARDS_MAX}
    if piece_bytes is not None:
        sizes = {"SHARD_BYTES": 64, "SHARDS_MAX": 1 << 20, "_PIECE_BYTES_MIN": piece_bytes}
    try:
        with mock.patch.multiple(shards, **sizes):
            read = Read(files, **options)
    except InvalidDrop as error:
        check_message(str(error), files)
        return
    layout = read.layout
    assert Layout.model_validate_json(layout.model_dump_json()) == layout
    for problem in read.problems:
        assert len(problem.model_dump_json()) < 1500
        check_message(str(problem), files)
    for block in read.blocks:
        if isinstance(block.features, SparseMatrix):
            block.features.check()
            assert np.isfinite(block.features.values).all()
        else:
            assert np.isfinite(block.features).all()
        assert len(block.features) == len(block.hashes)
        if block.labels is not None:
            assert np.isfinite(block.labels).all()
            assert len(block.labels) == len(block.features)
            if layout.classes is not None:
                assert np.isin(block.labels, np.arange(len(layout.classes))).all()
    assert all(math.isfinite(value) for value in (layout.fill or []) + (layout.label_values or []))


def check_message(message: str, files: Files) -> None:
    assert 0 < len(message) < 3000
    assert any(name in message for name in files)
    assert not PROGRAMMERS_WORDS.search(message), message
    message.encode()


@pytest.mark.parametrize("kind", WHOLE)
def test_good_drops_are_read(kind: str) -> None:
    check(WHOLE[kind], {}, None)
    assert Read(WHOLE[kind]).features.size


@pytest.mark.parametrize("kind", WHOLE)
@fuzz
@given(st.data())
def test_spoiled_drops_give_rows_or_a_refusal(kind: str, data: st.DataObject) -> None:
    files = data.draw(spoiled_drops(kind))
    check(files, data.draw(options_of), data.draw(st.sampled_from([None, None, 1, 9, 50])))


@settings(fuzz, max_examples=8 * EXAMPLES)
@given(any_drops(), options_of, st.sampled_from([None, 1, 9]))
def test_any_files_give_rows_or_a_refusal(files: Files, options: dict[str, Any], piece_bytes: int | None) -> None:
    check(files, options, piece_bytes)


@settings(fuzz, max_examples=4 * EXAMPLES)
@given(st.one_of([spoiled_drops(kind) for kind in WHOLE]) | any_drops(), st.integers(1, 200))
def test_the_codec_reads_any_bytes_or_says_where_they_are_wrong(files: Files, block_bytes: int) -> None:
    for data in files.values():
        for read, blocks in (
            (recordio.read, recordio.read_blocks),
            (recordio.read_sparse, recordio.read_sparse_blocks),
            (recordio.read_any, recordio.read_any_blocks),
        ):
            try:
                whole: int | None = len(read(data, label_matrix=True)[0])
            except RecordIOError as error:
                assert 0 <= error.offset <= len(data)
                whole = None
            try:
                rows = sum(len(features) for features, _ in blocks(data, label_matrix=True, block_bytes=block_bytes))
            except RecordIOError as error:
                assert 0 <= error.offset <= len(data)
                assert whole is None
            else:
                assert rows == whole


# Bombs


MEMORY = 400 << 20
SECONDS = 8
PROGRAM = """
import sys, types
tests = types.ModuleType("tests")  # another package of this name may be installed
tests.__path__ = [sys.argv[1]]
sys.modules["tests"] = tests
from tests import hostile
hostile.main(int(sys.argv[2]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is counted as Linux does")
def test_bombs_are_refused_in_little_memory_and_time() -> None:
    """Each is known for what it does to readers that believe it. They share a process that may not grow."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(Path(hostile.__file__).parent), str(MEMORY)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    assert found.keys() == hostile.DROPS.keys()
    for name, one in found.items():
        assert one["refused"], f"{name}: {one}"
        check_message(one["refused"], {"bomb": b""})
        assert one["seconds"] < SECONDS, f"{name}: {one}"
