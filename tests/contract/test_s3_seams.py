"""The parts of moto's S3 that the embedded cloud replaces are still where they were."""

import dataclasses
import inspect

import pytest

from localaws import s3
from localaws.seams import Seam, SeamMoved


@pytest.mark.parametrize("seam", s3.SEAMS, ids=lambda seam: seam.path)
def test_the_part_is_there_and_takes_the_same_parameters(seam: Seam) -> None:
    assert seam.check() is not None
    gone = dataclasses.replace(seam, path=f"{seam.path}_of_another_release")
    with pytest.raises(SeamMoved, match=gone.path):
        gone.check()


def test_what_the_replacements_rely_on_is_there() -> None:
    from moto.core.base_backend import InstanceTrackerMeta
    from moto.s3 import models
    from moto.s3.responses import S3Response

    # A key's bytes are set once, when it is made, and are read and let go through these names.
    made = inspect.getsource(models.FakeKey.__init__)
    assert made.index("self._etag = etag") < made.index("self._value_buffer =") < made.index("self.value = value")
    assert "self._value_buffer.close()" in inspect.getsource(models.FakeKey.dispose)
    assert "self[key].dispose()" in inspect.getsource(models.MultipartDict.__delitem__)
    # The listing's only use of a copy is to mark it.
    listing = inspect.getsource(models.S3Backend.list_object_versions)
    assert listing.count("copy.deepcopy(version_key)") == 1
    assert "version.is_latest =" in listing
    assert isinstance(models.FakeKey, InstanceTrackerMeta)
    # A body that is no bytes gets through to the server.
    assert "return 200, response_headers, key.value" in inspect.getsource(S3Response.get_object)
    assert "response_content[begin : end + 1]" in inspect.getsource(S3Response._handle_range_header)
    assert "multipart.complete(body)" in inspect.getsource(models.S3Backend.complete_multipart_upload)


def test_installing_twice_wraps_once() -> None:
    s3.install()
    before = [seam.check() for seam in s3.SEAMS]
    s3.install()
    assert [seam.check() for seam in s3.SEAMS] == before
