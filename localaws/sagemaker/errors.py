"""The errors that the embedded SageMaker answers with, by the codes that botocore turns into exceptions.

ApiError
|-- ValidationException     400, the request breaks a rule, or names something that isn't there
|-- ResourceInUse           400, the name is taken
|-- ConflictException       400, something else stands in the way
|-- ResourceLimitExceeded   400
|-- UnknownOperation        400, not a SageMaker operation that is served here
`-- InvocationError         an answer of the runtime: ValidationError 400, ModelError 424, InternalFailure 500
Failure                     why a job or an endpoint ends `Failed`; its text becomes FailureReason
"""

from typing import Any

REASON_LIMIT = 1024
"""SageMaker cuts FailureReason after this many characters."""


class ApiError(Exception):
    """An error answer of the control plane; `code` is what `ClientError.response["Error"]["Code"]` shows."""

    code = "InternalFailure"
    status = 400

    def fields(self) -> dict[str, Any]:
        """The answer's members beside its type."""
        return {"message": str(self)}


class ValidationException(ApiError):
    """The request breaks a rule of the API or names a resource that doesn't exist."""

    code = "ValidationException"


class SerializationException(ApiError):
    """The request's body isn't what the protocol asks for."""

    code = "SerializationException"


class ResourceInUse(ApiError):
    """The name belongs to a resource that exists."""

    code = "ResourceInUse"


class ConflictException(ApiError):
    """The state of what is there forbids the change."""

    code = "ConflictException"


class ResourceLimitExceeded(ApiError):
    """As many resources of this kind as the embedded SageMaker runs at once are running."""

    code = "ResourceLimitExceeded"


class UnknownOperation(ApiError):
    """No operation that is served here."""

    code = "UnknownOperationException"


class InternalFailure(ApiError):
    """A bug of the embedded SageMaker; its log has the traceback."""

    status = 500


class InvocationError(ApiError):
    """An error answer of InvokeEndpoint, whose members begin with capitals."""

    def __init__(self, code: str, status: int, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.extra = extra

    def fields(self) -> dict[str, Any]:
        """The answer's members: Message and, for a ModelError, what the model said."""
        return {"Message": str(self), **self.extra}


class Failure(Exception):
    """A job or an endpoint can't go on. The text is its FailureReason and begins with whose fault it is."""

    @property
    def reason(self) -> str:
        """The text as Describe shows it, cut to SageMaker's limit."""
        return str(self)[:REASON_LIMIT]
