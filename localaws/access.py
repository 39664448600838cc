"""The door to the services: who calls is told, held against IAM, and written into the journal."""

import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from localaws import actions
from localaws.actions import EVERYTHING, Need, UnknownAction
from localaws.faults import xml_error
from localaws.iam import Iam, PolicyError, Refusal
from localaws.identities import CALLER_HEADER, Identities, Identity
from localaws.journal import Journal, RecordedCall

LOG = logging.getLogger(__name__)

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Execute = Callable[[str, Environ, StartResponse], Iterable[bytes]]

_ACCESS_KEY = re.compile(r"Credential=([^/,\s]+)/")
_HEADER_VARIABLE = "HTTP_" + CALLER_HEADER.upper().replace("-", "_")
_ERROR_CODE = re.compile(rb'<Code>([^<]+)</Code>|"(?:__type|code)":\s*"(?:[^"#]*#)?([^"]+)"')

# How a service says that a call isn't allowed, where that isn't AccessDeniedException with status 400.
_DENIED: dict[str, tuple[str, int]] = {
    "s3": ("AccessDenied", 403),
    "sns": ("AuthorizationError", 403),
    "sqs": ("AccessDenied", 403),
    "iam": ("AccessDenied", 403),
    "sts": ("AccessDenied", 403),
    "cloudformation": ("AccessDenied", 403),
    "monitoring": ("AccessDenied", 403),
    "lambda": ("AccessDeniedException", 403),
    "scheduler": ("AccessDeniedException", 403),
}


class Access:
    """Serves requests that are allowed, by `execute`, and refuses the others in the service's own words."""

    def __init__(self, *, iam: Iam, identities: Identities, journal: Journal) -> None:
        self._iam = iam
        self._identities = identities
        self._journal = journal

    def identify(self, environ: Environ) -> Identity:
        """Who sends a request."""
        key = environ.get(_HEADER_VARIABLE)
        if not key:
            found = _ACCESS_KEY.search(environ.get("HTTP_AUTHORIZATION", ""))
            key = found[1] if found else ""
        return self._identities.find(key)

    def serve(self, service: str, environ: Environ, start_response: StartResponse, execute: Execute) -> Iterable[bytes]:
        """Answer a request that is signed for a service."""
        identity = self.identify(environ)
        # A user's calls are restricted by no policy but a bucket's.
        if identity.is_user and not self._journal.recording and service != "s3":
            return self._execute(service, environ, start_response, execute)
        moment = time.time()
        body = _read_body(environ) if actions.reads_body(service, environ) else b""
        name, parameters = actions.operation(service, environ, body)
        needs: list[Need] = []
        try:
            needs = actions.needs(service, name, parameters, self._iam.where, body)
            refusal = self._iam.check(identity, needs)
        except (PolicyError, UnknownAction, LookupError, TypeError, ValueError, AttributeError) as error:
            refusal = None
            if not identity.is_user:
                LOG.warning("%s may not call %s: %s", identity.caller, name, error)
                refusal = Refusal(
                    Need("", EVERYTHING), f"The embedded cloud can't tell whether this is allowed: {error}"
                )
        held: list[Any] = []
        answer: Iterable[bytes] = ()
        if refusal is None:
            answer = self._execute(service, environ, lambda *arguments: held.append(arguments), execute)
            if service == "s3" and held and held[-1][0].startswith("404"):
                more = actions.missing_object(name, parameters, self._iam.where)
                needs += more
                refusal = self._iam.check(identity, more)
                if refusal is not None:
                    _close(answer)
        if refusal is not None:
            held.clear()
            answer = _refuse(service, environ, lambda *arguments: held.append(arguments), refusal)
        if not held:  # an application that answers later than it is called
            answer = _drain(answer)
        status, headers = held[-1][:2]
        code = int(str(status).split(" ", 1)[0])
        error_code = ""
        if code >= 400:
            answer = _drain(answer)
            error_code = _error_code(headers, b"".join(answer))
        if self._journal.recording:
            self._record(identity, service, name, needs, environ, moment, code, error_code, headers, answer)
        start_response(*held[-1])
        return answer

    def _execute(
        self, service: str, environ: Environ, start_response: StartResponse, execute: Execute
    ) -> Iterable[bytes]:
        try:
            return execute(service, environ, start_response)
        finally:
            if service == "iam":
                self._iam.forget()

    def _record(
        self,
        identity: Identity,
        service: str,
        name: str,
        needs: list[Need],
        environ: Environ,
        moment: float,
        status: int,
        error: str,
        headers: list[tuple[str, str]],
        answer: Iterable[bytes],
    ) -> None:
        main = needs[0].action if needs else f"{actions.prefix(service)}:{name}"
        own = [need for need in needs if need.action == main]
        size = environ.get("HTTP_X_AMZ_DECODED_CONTENT_LENGTH") or environ.get("CONTENT_LENGTH") or "0"
        length = next((value for key, value in headers if key.lower() == "content-length"), None)
        if environ["REQUEST_METHOD"] == "HEAD":
            length = "0"
        elif length is None:
            length = str(sum(map(len, answer))) if isinstance(answer, list) else "0"
        self._journal.add(
            RecordedCall(
                moment=moment,
                caller=identity.caller,
                role=identity.role_arn,
                service=service,
                operation=name,
                action=main,
                resources=tuple(dict.fromkeys(need.resource for need in own)),
                context=self._iam.context(identity) | (dict(own[0].context) if own else {}),
                status=status,
                error=error,
                request_bytes=int(size),
                response_bytes=int(length),
                identity=identity,
                needs=tuple(needs),
            )
        )


def _read_body(environ: Environ) -> bytes:
    """The request's body, which stays readable."""
    if not environ.get("CONTENT_LENGTH") and "HTTP_TRANSFER_ENCODING" not in environ:
        return b""
    body: bytes = environ["wsgi.input"].read()
    environ["wsgi.input"] = BytesIO(body)
    environ["CONTENT_LENGTH"] = str(len(body))
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    return body


def _drain(answer: Iterable[bytes]) -> list[bytes]:
    try:
        return list(answer)
    finally:
        _close(answer)


def _close(answer: Iterable[bytes]) -> None:
    close = getattr(answer, "close", None)
    if close is not None:
        close()


def _error_code(headers: list[tuple[str, str]], body: bytes) -> str:
    named = next((value for key, value in headers if key.lower() == "x-amzn-errortype"), "")
    if named:
        return str(named).partition(":")[0].rpartition("#")[2]
    found = _ERROR_CODE.search(body)
    return (found[1] or found[2]).decode("utf-8", "replace") if found else ""


def _refuse(service: str, environ: Environ, start_response: StartResponse, refusal: Refusal) -> list[bytes]:
    """An answer that says, as the service would, that a call isn't allowed."""
    code, status = _DENIED.get(service, ("AccessDeniedException", 400))
    if environ.get("PATH_INFO", "").startswith("/endpoints/"):
        status = 403
    in_words = environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded")
    if service == "s3" or in_words:
        body = b"" if environ["REQUEST_METHOD"] == "HEAD" else xml_error(service, code, refusal.message)
        headers = [("Content-Type", "text/xml")]
    else:
        said = {"__type": code, "message": refusal.message, "Message": refusal.message}
        body = json.dumps(said).encode()
        headers = [("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-ErrorType", code)]
    request_id = ("x-amz-request-id" if service == "s3" else "x-amzn-RequestId", str(uuid.uuid4()))
    start_response(f"{status} Denied", [*headers, request_id, ("Content-Length", str(len(body)))])
    return [body]
