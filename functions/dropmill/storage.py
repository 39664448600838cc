"""Documents and files in S3: JSON models, whole objects within a bound, downloads to a local file."""

from pathlib import Path
from typing import Any, TypeVar

from botocore.exceptions import ClientError
from pydantic import BaseModel, RootModel

from dropmill import aws
from dropmill.contracts import ObjectVersion
from dropmill.settings import setting

ModelT = TypeVar("ModelT", bound=BaseModel)

DOCUMENT_BYTES_MAX = 16 * 1024 * 1024

_MISSING = {"NoSuchKey", "NoSuchVersion", "404"}


class MissingDocument(LookupError):
    """There is no such object."""


class TooLarge(ValueError):
    """The object is larger than its reader allows."""


def read_object(bucket: str, key: str, *, version_id: str | None = None, limit: int = DOCUMENT_BYTES_MAX) -> bytes:
    """The bytes of one object.

    Raises:
        MissingDocument: there is no such object or version.
        TooLarge: it is larger than `limit` bytes.
    """
    pinned: Any = {"VersionId": version_id} if version_id else {}
    try:
        answer = aws.s3().get_object(Bucket=bucket, Key=key, **pinned)
    except ClientError as error:
        if aws.error_code(error) in _MISSING:
            raise MissingDocument(f"s3://{bucket}/{key} does not exist") from error
        raise
    with answer["Body"] as body:
        if answer["ContentLength"] > limit:
            raise TooLarge(f"s3://{bucket}/{key} has {answer['ContentLength']} bytes; at most {limit} are read")
        return body.read()


def read_document(model: type[ModelT], key: str) -> ModelT:
    """A JSON document of the artifact bucket.

    Raises:
        MissingDocument: there is none.
    """
    return model.model_validate_json(read_object(setting("artifact_bucket"), key))


def write_document(key: str, document: BaseModel) -> None:
    write_object(key, document.model_dump_json(indent=None if isinstance(document, RootModel) else 2).encode())


def write_object(key: str, body: bytes, content_type: str = "application/json") -> None:
    """Put one object into the artifact bucket."""
    aws.s3().put_object(Bucket=setting("artifact_bucket"), Key=key, Body=body, ContentType=content_type)


def download(source: ObjectVersion, target: Path) -> None:
    """Bring one object version to a local file, in parts and without holding it in memory."""
    pinned = {"VersionId": source.version_id} if source.version_id else None
    aws.s3().download_file(source.bucket, source.key, str(target), ExtraArgs=pinned)


def artifact_uri(key: str) -> str:
    return f"s3://{setting('artifact_bucket')}/{key}"


def upload(source: Path, key: str) -> None:
    """Bring a local file into the artifact bucket, in parts; what an error leaves unfinished is aborted."""
    aws.s3().upload_file(str(source), setting("artifact_bucket"), key)
