"""The rules of faults: what they match, how often, and what a file may say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from localaws.faults import EFFECTS, SERVICES, FaultError, FaultRule, Faults, Refused, read, s3_operation, xml_error
from localaws.operations import operations


def call(faults: Faults, name: str, text: bytes = b"", caller: str = "user") -> str:
    """What becomes of a call."""
    try:
        after = faults.before_call(name, lambda: text, caller)
    except Refused as refused:
        return f"{refused.code} {refused.status}"
    except ConnectionError:
        return "no answer"
    if after is None:
        return "done"
    with pytest.raises(ConnectionError):
        after()
    return "done, no answer"


def standing(**rule: Any) -> Faults:
    faults = Faults()
    faults.add(FaultRule.model_validate(rule))
    return faults


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dynamodb:UpdateItem", "ProvisionedThroughputExceededException 400"),
        ("s3:GetObject", "SlowDown 503"),
        ("lambda:Invoke", "TooManyRequestsException 429"),
        ("sagemaker:CreateModel", "ThrottlingException 400"),
        ("states:StartExecution", "ThrottlingException 400"),
    ],
)
def test_a_throttled_call_gets_the_services_own_error(name: str, said: str) -> None:
    assert call(standing(call="*", effect="throttle"), name) == said


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"effect": "fail"}, "InternalError 500"),
        ({"effect": "fail", "code": "AccessDenied", "status": 403}, "AccessDenied 403"),
        ({"effect": "fail", "code": "NoSuchUpload"}, "NoSuchUpload 400"),
        ({"effect": "timeout", "seconds": 0}, "no answer"),
        ({"effect": "lose-answer"}, "done, no answer"),
        ({"effect": "delay", "seconds": 0}, "done"),
        ({"effect": "note"}, "done"),
    ],
)
def test_every_effect_on_a_call(rule: dict[str, Any], said: str) -> None:
    faults = standing(call="s3:*", **rule)
    assert call(faults, "s3:PutObject") == said
    assert [(one.subject, one.effect, one.what) for one in faults.injected] == [
        ("call", rule["effect"], "s3:PutObject")
    ]
    assert call(faults, "sns:Publish") == "done"


def test_skip_and_times_bound_a_rule() -> None:
    faults = standing(call="s3:GetObject", effect="throttle", skip=2, times=2)
    assert [call(faults, "s3:GetObject").startswith("SlowDown") for _ in range(6)] == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]


def test_only_what_a_rule_is_about_counts_for_it() -> None:
    faults = standing(call="dynamodb:*", effect="throttle", about="RUN#one", caller="lambda:*-CloseRun*", skip=1)
    assert call(faults, "dynamodb:Query", b"RUN#two", "lambda:x-CloseRunFunction") == "done"
    assert call(faults, "dynamodb:Query", b"RUN#one", "lambda:x-StartRunFunction") == "done"
    assert call(faults, "dynamodb:Query", b"RUN#one", "lambda:x-CloseRunFunction") == "done", "the one that is skipped"
    assert call(faults, "dynamodb:Query", b"RUN#one", "lambda:x-CloseRunFunction") != "done"


def test_of_two_rules_the_first_has_the_call() -> None:
    faults = standing(call="s3:*", effect="throttle", times=1)
    faults.add(FaultRule(call="s3:*", effect="fail", times=1))
    assert [call(faults, "s3:GetObject") for _ in range(3)] == ["SlowDown 503", "InternalError 500", "done"]


def test_chance_follows_from_the_seed() -> None:
    def met(seed: int) -> list[str]:
        faults = Faults(seed=seed)
        faults.add(FaultRule(call="*", effect="throttle", probability=0.5))
        return [call(faults, "s3:GetObject") for _ in range(64)]

    assert met(1) == met(1)
    assert met(1) != met(2)
    assert {"done", "SlowDown 503"} == set(met(1))


def test_a_killed_worker_answers_nothing() -> None:
    killed: list[tuple[str | None, bytes]] = []

    def kill(function: str | None, about: bytes) -> int:
        killed.append((function, about))
        return 1

    faults = Faults(kill_worker=kill)
    faults.add(FaultRule(call="sagemaker:Create*", effect="kill", about="one", times=1))
    faults.add(FaultRule(call="sagemaker:Create*", effect="kill", before=True, times=1))
    assert call(faults, "sagemaker:CreateModel", b"one", "lambda:x-CreateModelFunction") == "done, no answer"
    assert call(faults, "sagemaker:CreateModel", b"two", "user") == "no answer"
    assert killed == [("x-CreateModelFunction", b"one"), (None, b"")]


@pytest.mark.parametrize(
    ("rule", "delays"),
    [
        ({"effect": "drop"}, []),
        ({"effect": "repeat", "copies": 3}, [0, 0, 0]),
        ({"effect": "delay", "seconds": 2}, [2]),
    ],
)
def test_events(rule: dict[str, Any], delays: list[float]) -> None:
    faults = standing(event="Object *", about="points.csv", **rule)
    event = {"detail-type": "Object Created", "source": "aws.s3", "detail": {}}
    assert faults.deliveries_of(event, lambda: b"points.csv") == delays
    assert faults.deliveries_of(event, lambda: b"other.csv") == [0]


def test_reordered_events_come_within_the_time() -> None:
    faults = standing(event="*", effect="reorder", seconds=2)
    event = {"detail-type": "Object Created", "source": "aws.s3", "detail": {}}
    delays = [delay for _ in range(8) for delay in faults.deliveries_of(event, lambda: b"")]
    assert all(0 <= delay <= 2 for delay in delays)
    assert delays != sorted(delays)


def test_invocations_and_jobs() -> None:
    faults = standing(function="*-CloseRunFunction", effect="repeat", copies=3, times=1)
    faults.add(FaultRule(function="*", effect="kill", seconds=0.5, about="one"))
    assert faults.copies_of_invocation("x-CloseRunFunction", b"{}") == 3
    assert faults.copies_of_invocation("x-CloseRunFunction", b"{}") == 1
    assert faults.seconds_to_live("x-StartRunFunction", b"one") == 0.5
    assert faults.seconds_to_live("x-StartRunFunction", b"two") is None

    def never(_seconds: float) -> None:
        raise AssertionError

    faults.add(FaultRule(job="training", effect="capacity", times=1))
    assert "CapacityError" in str(faults.job_trouble("training", "job-1", lambda: False, never))
    assert faults.job_trouble("training", "job-1", lambda: False, never) is None
    waited: list[float] = []
    faults.add(FaultRule(job="transform", effect="hang"))
    assert faults.job_trouble("transform", "job-2", lambda: len(waited) == 3, waited.append) is None
    assert len(waited) == 3, "it hangs until somebody stops it"


def test_what_follows_a_fault_runs_once_for_each() -> None:
    import threading

    done = threading.Semaphore(0)
    faults = Faults()
    faults.add(FaultRule(call="*", effect="note", skip=1, times=1), then=done.release)
    for _ in range(3):
        call(faults, "s3:GetObject")
    assert done.acquire(timeout=5)
    assert not done.acquire(blocking=False)
    assert faults.counts() == {"call note": 1}


def test_rules_are_taken_away() -> None:
    faults = standing(call="*", effect="throttle", about="one")
    remove = faults.add(FaultRule(call="*", effect="fail"))
    remove()
    assert call(faults, "s3:GetObject", b"two") == "done"
    faults.clear("two")
    assert faults
    faults.clear("one")
    assert not faults


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: [", "is not YAML"),
        ("rules: []", "rules: has no rule in it"),
        (
            "rules: [{effect: fail}]",
            "rules.0: a rule names one of call, function, event, job, execution; this one names none",
        ),
        ("rules: [{call: 's3:*', event: x, effect: fail}]", "this one names call and event"),
        ("rules: [{event: Object Created, effect: throttle}]", "throttle is not for rules of event; there are d"),
        ("rules: [{call: UpdateItem, effect: fail}]", "UpdateItem is no call; write <service>:<Operation>"),
        ("rules: [{job: cooking, effect: fail}]", "no job is called cooking"),
        ("rules: [{call: 's3:*', effect: fail, often: true}]", "rules.0.often: there is no such key; there are call, "),
        ("rules: [{call: 's3:*', effect: fail, probability: 2}]", "rules.0.probability: must be at most 1"),
        ("rules: [{call: 's3:*', effect: delay, code: Oops}]", "code and status go with a call that is to fail"),
        ("rules: [{event: '*', effect: drop, caller: user}]", "caller goes with call alone"),
        ("rules: [{call: 's3:*', effect: drop}]", "drop is not for rules of call"),
        ("", "is empty; it takes the key `rules`"),
        ("throttle everything", "is only a text; it takes the key `rules`"),
        ("[1]", "is a list; it takes the key `rules`"),
        ("rulez: []", "rules: is missing; rulez: there is no such key; did you mean rules?"),
        ("rules: [x]", "rules.0: must be keys with values"),
        ("rules: [{call: '*', effect: fail, time: 3}]", "rules.0.time: there is no such key; did you mean times?"),
        ("rules: [{call: '*', effect: throtle}]", "rules.0.effect: there is no such effect; did you mean throttle?"),
        ("rules: [{call: '*', effect: fail, times: often}]", "rules.0.times: must be a whole number"),
    ],
)
def test_a_file_that_can_not_be_used_says_why(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "faults.yaml"
    file.write_text(text)
    with pytest.raises(FaultError) as refused:
        read(file)
    assert str(refused.value).startswith(str(file))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dynamodb:UpdateItm", "dynamodb has no operation UpdateItm; did you mean dynamodb:UpdateItem?"),
        ("dynamodb:updateitem", "did you mean dynamodb:UpdateItem?"),
        ("lambda:InvokeFunction", "did you mean lambda:Invoke?"),
        ("sagemaker:Zork*", "sagemaker has no operation Zork*; it has "),
        ("s3:get*", "s3 has no operation get*; capitals count, as in s3:Get"),
        ("stepfunctions:StartExecution", "named, states; write states:StartExecution"),
        ("cloudwatch:PutMetricData", "named, monitoring; write monitoring:PutMetricData"),
        ("step-functions:StartExecution", "no service of AWS; did you mean states:StartExecution?"),
        ("dynamodbb:*", "dynamodbb is no service of AWS; did you mean dynamodb:*?"),
        ("../s3:GetObject", "../s3 is no service of AWS; such are dynamodb, "),
        ("*:Zork*", "*:Zork* matches no operation of dynamodb, "),
        ("s3:", "s3: is no call"),
    ],
)
def test_a_call_that_does_not_exist_is_refused(name: str, said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        FaultRule(call=name, effect="throttle")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "sagemaker:InvokeEndpoint",
        "states:SendTask*",
        "monitoring:PutMetricData",
        "elasticmapreduce:RunJobFlow",
        "iam:GetRole",
        "*:Get*",
        "*:*",
        "s3:?etObject",
    ],
)
def test_a_call_that_exists_is_taken(name: str) -> None:
    assert FaultRule(call=name, effect="throttle").pattern == name


def test_every_service_that_a_pattern_may_mean_has_operations() -> None:
    assert [service for service in SERVICES if not operations(service)] == []


def test_rules_tell_how_often_they_have_acted() -> None:
    faults = standing(call="s3:GetObject", effect="throttle", times=2)
    faults.add(FaultRule(call="s3:PutObject", effect="fail", about="locked"))
    faults.add(FaultRule(call="s3:HeadObject", effect="note", skip=5))
    for name in ("s3:GetObject", "s3:GetObject", "s3:GetObject", "s3:PutObject", "s3:HeadObject"):
        call(faults, name)
    assert faults.acted() == [
        "rule 1 (call s3:GetObject: throttle) acted 2 times",
        "rule 2 (call s3:PutObject about locked: fail) never acted: nothing matched it",
        "rule 3 (call s3:HeadObject: note) never acted: 1 matched, which `skip` or `probability` let pass",
    ]


def test_a_file_of_rules(tmp_path: Path) -> None:
    file = tmp_path / "faults.yaml"
    file.write_text("seed: 7\nrules:\n  - {call: 'dynamodb:UpdateItem', effect: throttle, times: 3}\n")
    faults = Faults()
    assert faults.load(file) == 1
    assert faults.seed == 7
    assert call(faults, "dynamodb:UpdateItem") != "done"
    with pytest.raises(FaultError, match="can't be read"):
        faults.load(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("method", "path", "query", "name"),
    [
        ("GET", "/bucket/key/of/it", "", "GetObject"),
        ("PUT", "/bucket/key", "", "PutObject"),
        ("HEAD", "/bucket/key", "", "HeadObject"),
        ("PUT", "/bucket/key", "partNumber=1&uploadId=x", "UploadPart"),
        ("POST", "/bucket/key", "uploads", "CreateMultipartUpload"),
        ("POST", "/bucket/key", "uploadId=x", "CompleteMultipartUpload"),
        ("DELETE", "/bucket/key", "uploadId=x", "AbortMultipartUpload"),
        ("GET", "/bucket", "list-type=2&prefix=a", "ListObjectsV2"),
        ("GET", "/bucket", "versions&prefix=a", "ListObjectVersions"),
        ("POST", "/bucket", "delete", "DeleteObjects"),
        ("PUT", "/bucket", "versioning", "PutBucketVersioning"),
        ("PUT", "/bucket", "", "CreateBucket"),
    ],
)
def test_operations_of_s3(method: str, path: str, query: str, name: str) -> None:
    assert s3_operation(method, path, query) == name


def test_every_effect_is_one_of_some_subject() -> None:
    for subject, effects in EFFECTS.items():
        for effect in effects:
            rule = {subject: {"call": "s3:*", "job": "training"}.get(subject, "*"), "effect": effect}
            assert FaultRule.model_validate(rule).subject == subject


def test_errors_in_xml_quote_nothing() -> None:
    said: Callable[[str], bytes] = lambda service: xml_error(service, "SlowDown", "<a> & b")  # noqa: E731
    assert b"<Error><Code>SlowDown</Code><Message> a    b</Message></Error>" in said("s3")
    assert said("sns").startswith(b"<ErrorResponse>")
