"""What `dropmill doctor` makes of what AWS answers."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from dropmill import ledger
from dropmill.errors import InvalidRecipe
from dropmill.ledger import Lease, LeaseState
from dropmill.recipe import Recipe, parse_recipe
from dropmill_cli import doctor
from dropmill_cli.doctor import Check, Need, Patient, Status
from dropmill_cli.drops import RecipeChoice

ROLE = "arn:aws:iam::123456789012:role/teams/analyst"
OUTPUTS = {
    "DropBucket": "d-drops",
    "ArtifactBucket": "d-artifacts",
    "LedgerTable": "d-ledger",
    "NotificationTopicArn": "arn:aws:sns:eu-west-1:123456789012:runs",
    "TrainStateMachineArn": "arn:aws:states:eu-west-1:123456789012:stateMachine:d-train",
    "ScoreStateMachineArn": "arn:aws:states:eu-west-1:123456789012:stateMachine:d-score",
    "StartScoringFunctionName": "d-start-scoring",
    "JobRoleArn": "arn:aws:iam::123456789012:role/d-jobs",
}
LONG = "a" * 41


class Api:
    """A client whose operations and paginators answer what they were given: a document, pages or an error."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers
        self.asked: list[dict[str, Any]] = []

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**request: Any) -> Any:
            self.asked.append(request)
            answer = self._answers[operation]
            if isinstance(answer, Exception):
                raise answer
            return answer(**request) if callable(answer) else answer

        return call

    def get_paginator(self, operation: str) -> Any:
        outer = self

        class Pages:
            def paginate(self, **request: Any) -> Iterator[Any]:
                answer = getattr(outer, operation)(**request)
                yield from answer if isinstance(answer, list) else [answer]

        return Pages()


def refusal(code: str, operation: str, message: str = "no") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


def patient(**clients: Api) -> Patient:
    made = Patient(stack="dropmill", region="eu-west-1", embedded=False, account="123456789012", outputs=dict(OUTPUTS))
    made._clients.update({name.replace("_", "-"): client for name, client in clients.items()})
    return made


def look(name: str, who: Patient) -> list[Check]:
    checks = {**dict(doctor._ANYWHERE), **dict(doctor._OF_A_STACK)}
    return doctor._guarded(name, checks[name], who)


def statuses(checks: list[Check]) -> list[str]:
    return [check.status.value for check in checks]


TUNED = """
algorithm: linear-learner
training: {instance_type: ml.c5.xlarge, instance_count: 2, max_runtime: 10m}
tuning: {objective: "validation:objective_loss", max_parallel_jobs: 3, ranges: {wd: {continuous: [0.1, 1]}}}
evaluation: {with: transform, instance_type: ml.m5.xlarge}
"""


class TestQuotas:
    def test_what_a_recipe_needs_at_once(self) -> None:
        assert doctor.needs("tuned", parse_recipe(TUNED, "tuned")) == [
            Need("ml.c5.xlarge for training job usage", 6, "tuned"),
            Need("ml.m5.xlarge for transform job usage", 1, "tuned"),
            Need("ml.m5.large for transform job usage", 1, "tuned"),
        ]
        plain = doctor.needs("plain", Recipe(algorithm="kmeans"))
        assert plain[1] == Need("ml.m5.large for endpoint usage", 2, "plain")

    def test_too_little_enough_and_unknown(self) -> None:
        applied = [
            {"Quotas": [{"QuotaName": "ml.c5.xlarge for training job usage", "Value": 5.0, "QuotaCode": "L-1"}]},
            {"Quotas": [{"QuotaName": "ml.c5.xlarge for endpoint usage", "Value": 0.0, "QuotaCode": "L-0"}]},
        ]
        default = {"Quotas": [{"QuotaName": "ml.m5.xlarge for transform job usage", "Value": 2.0, "QuotaCode": "L-2"}]}
        who = patient(service_quotas=Api(list_service_quotas=applied, list_aws_default_service_quotas=default))
        who.recipes["tuned"] = parse_recipe(TUNED, "tuned")
        few, unknown, enough = look("quotas", who)
        assert few.status is Status.FAILURE
        assert "5, and recipe tuned needs 6" in few.found
        assert few.advice is not None
        assert "--quota-code L-1 --desired-value 6 --region eu-west-1" in few.advice
        assert unknown.status is Status.WARNING
        assert "'ml.m5.large for transform job usage'" in unknown.found
        assert enough.status is Status.OK

    def test_who_may_not_ask_is_told_so(self) -> None:
        who = patient(service_quotas=Api(list_service_quotas=refusal("AccessDeniedException", "ListServiceQuotas")))
        who.recipes["plain"] = Recipe(algorithm="kmeans")
        (check,) = look("quotas", who)
        assert (check.status, "may not call ListServiceQuotas" in check.found) == (Status.SKIPPED, True)


class TestRecipes:
    def test_each_is_read_as_a_run_reads_it(self) -> None:
        who = patient()
        who.parameters = {
            "TrainingInstanceType": "ml.c5.xlarge",
            "EvaluationInstanceType": "ml.c5.xlarge",
            "ScoringInstanceType": "ml.c5.xlarge",
            "MaxInstanceHours": "6",
        }
        choices = [
            RecipeChoice("good", b"algorithm: kmeans\n"),
            RecipeChoice("bad", b"algorithm: kmeans\nhyperparameter: {k: 3}\n"),
            RecipeChoice("long", b"algorithm: kmeans\ntraining: {max_runtime: 5h}\n"),
            RecipeChoice("odd", b"\xff"),
        ]
        who.outputs = {}
        checks = list(doctor.recipes(who, choices))
        assert statuses(checks) == ["ok", "failure", "failure", "failure"]
        assert "line 2" in checks[1].found
        assert "MaxInstanceHours" in checks[2].found
        assert list(who.recipes) == ["good"]
        assert who.recipes["good"].training.instance_type == "ml.c5.xlarge"

    def test_an_instance_type_that_sagemaker_does_not_have(self) -> None:
        who = patient()
        who.outputs = {}
        text = (
            b"algorithm: kmeans\ntraining: {instance_type: ml.p99.xlarge}\nevaluation: {instance_type: ml.t2.medium}\n"
        )
        transform = b"algorithm: kmeans\nevaluation: {with: transform, instance_type: ml.t2.medium}\n"
        trained, evaluated = doctor.recipes(who, [RecipeChoice("one", text), RecipeChoice("two", transform)])
        assert (trained.status, evaluated.status) == (Status.FAILURE, Status.FAILURE)
        assert trained.found == "one: SageMaker doesn't know ml.p99.xlarge for training"
        assert evaluated.found == "two: SageMaker doesn't know ml.t2.medium for evaluation"
        assert not who.recipes

    @pytest.mark.parametrize(
        ("keys", "expected"),
        [
            (["recipes/"], []),
            (["recipes/odd_name.yaml"], ["recipes/odd_name.yaml"]),
            (["recipes/digits.yml", "recipes/notes.txt", f"recipes/{LONG}.yaml"], ["digits.yml", f"{LONG}.yaml"]),
        ],
    )
    def test_a_key_that_is_no_recipe_s(
        self, monkeypatch: pytest.MonkeyPatch, keys: list[str], expected: list[str]
    ) -> None:
        api = Api(list_objects_v2={"Contents": [{"Key": key} for key in keys]})
        monkeypatch.setattr("dropmill.aws.s3", lambda: api)
        who = patient()
        who.parameters = {
            "TrainingInstanceType": "ml.c5.xlarge",
            "EvaluationInstanceType": "ml.c5.xlarge",
            "ScoringInstanceType": "ml.c5.xlarge",
        }
        *warned, none, built_in = doctor.recipes(who, [])
        assert (none.status, built_in.status) == (Status.OK, Status.OK)
        assert who.recipes["linear-learner"].training.instance_type == "ml.c5.xlarge"
        assert [check.status for check in warned] == [Status.WARNING][: len(expected)]
        assert all(name in warned[0].found for name in expected)
        assert not any("notes.txt" in check.found for check in warned)

    def test_what_can_be_said_without_a_stack(self) -> None:
        who = patient()
        who.outputs = {}
        assert statuses(list(doctor.recipes(who, []))) == ["skipped"]
        assert list(who.recipes) == ["linear-learner"]
        (check,) = doctor.recipes(who, [RecipeChoice("kmean")])
        assert (check.status, "built in are" in str(check.advice)) == (Status.FAILURE, True)

    def test_one_that_is_nowhere(self) -> None:
        with pytest.raises(InvalidRecipe, match="there is no such recipe"):
            doctor._read(RecipeChoice("nowhere"), None)
        assert doctor._read(RecipeChoice("knn"), None).algorithm == "knn"

    def test_a_region_without_the_algorithms(self) -> None:
        who = patient()
        who.region = "xx-nowhere-1"
        who.recipes["plain"] = Recipe(algorithm="kmeans")
        assert statuses(look("images", who)) == ["failure"]
        who.region = "eu-west-1"
        (check,) = look("images", who)
        assert (check.status, "eu-west-1" in check.found) == (Status.OK, True)


class TestCaller:
    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (NoCredentialsError(), "there are none"),
            (refusal("ExpiredToken", "GetCallerIdentity"), "AWS refuses them"),
            (EndpointConnectionError(endpoint_url="https://sts"), "AWS can't be asked"),
        ],
    )
    def test_no_credentials_no_examination(self, answer: Exception, said: str) -> None:
        (check,) = doctor._guarded("credentials", doctor.credentials, patient(sts=Api(get_caller_identity=answer)))
        assert (check.status, said in check.found) == (Status.FAILURE, True)

    def test_a_session_is_simulated_as_its_role(self) -> None:
        def simulate(ActionNames: list[str], **_: Any) -> Any:  # noqa: N803  the API's own word
            refused = ActionNames[0] in {"s3:PutObject", "iam:PassRole"}
            return {"EvaluationResults": [{"EvalDecision": "implicitDeny" if refused else "allowed"}]}

        iam = Api(get_role={"Role": {"Arn": ROLE}}, simulate_principal_policy=simulate)
        who = patient(iam=iam)
        who.caller = "arn:aws:sts::123456789012:assumed-role/analyst/me"
        drop, endpoint = look("permissions", who)
        assert (drop.status, drop.found) == (Status.WARNING, "analyst may not call s3:PutObject")
        assert endpoint.found == "analyst may not call iam:PassRole"
        simulated = iam.asked[1:]
        assert {request["PolicySourceArn"] for request in simulated} == {ROLE}
        passed = next(request for request in simulated if request["ActionNames"] == ["iam:PassRole"])
        assert passed["ContextEntries"][0]["ContextKeyValues"] == ["sagemaker.amazonaws.com"]
        created = next(request for request in simulated if request["ActionNames"] == ["sagemaker:CreateModel"])
        assert [arn.rpartition(":")[2] for arn in created["ResourceArns"]] == ["model/*"]

    @pytest.mark.parametrize(
        ("caller", "expected"),
        [
            ("arn:aws:iam::123456789012:root", "warning"),
            ("arn:aws:sts::123456789012:federated-user/me", "skipped"),
            ("arn:aws:iam::123456789012:user/me", "skipped"),
        ],
    )
    def test_who_cannot_be_simulated(self, caller: str, expected: str) -> None:
        who = patient(iam=Api(simulate_principal_policy=refusal("AccessDenied", "SimulatePrincipalPolicy")))
        who.caller = caller
        assert statuses(look("permissions", who)) == [expected]


class TestStack:
    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            ("UPDATE_COMPLETE", "ok"),
            ("UPDATE_ROLLBACK_COMPLETE", "warning"),
            ("UPDATE_IN_PROGRESS", "warning"),
            ("ROLLBACK_COMPLETE", "failure"),
            ("UPDATE_ROLLBACK_FAILED", "failure"),
        ],
    )
    def test_its_status(self, status: str, expected: str) -> None:
        outputs = [{"OutputKey": name, "OutputValue": value} for name, value in OUTPUTS.items()]
        found = {"Stacks": [{"StackStatus": status, "Outputs": outputs}]}
        resources = {"StackResourceSummaries": [{"LogicalResourceId": "A", "ResourceType": "AWS::SNS::Topic"}]}
        cloudformation = Api(describe_stacks=found, list_stack_resources=resources)
        assert statuses(list(doctor.stack(patient(cloudformation=cloudformation)))) == [expected]

    def test_none_and_another(self) -> None:
        absent = refusal("ValidationError", "DescribeStacks", "Stack with id dropmill does not exist")
        (check,) = doctor.stack(patient(cloudformation=Api(describe_stacks=absent)))
        assert (check.status, "docs/deploy.md" in str(check.advice)) == (Status.FAILURE, True)
        other = {"Stacks": [{"StackStatus": "CREATE_COMPLETE"}]}
        (check,) = doctor.stack(patient(cloudformation=Api(describe_stacks=other)))
        assert (check.status, "has no output" in check.found) == (Status.FAILURE, True)


class TestParts:
    def test_notifications(self) -> None:
        confirmed, waiting = {"SubscriptionArn": "arn:aws:sns:x"}, {"SubscriptionArn": "PendingConfirmation"}
        for found, expected in (([confirmed], "ok"), ([confirmed, waiting], "warning"), ([], "warning")):
            sns = Api(list_subscriptions_by_topic={"Subscriptions": found})
            assert statuses(look("notifications", patient(sns=sns))) == [expected]

    def test_the_drop_bucket(self) -> None:
        s3 = Api(get_bucket_notification_configuration={}, get_bucket_versioning={"Status": "Suspended"})
        assert statuses(look("drop bucket", patient(s3=s3))) == ["failure", "failure"]

    def test_dead_letters(self) -> None:
        for seen, unseen, expected in (("0", "0", "ok"), ("1", "0", "warning"), ("0", "2", "warning")):
            counts = {"ApproximateNumberOfMessages": seen, "ApproximateNumberOfMessagesNotVisible": unseen}
            who = patient(sqs=Api(get_queue_attributes={"Attributes": counts}))
            who.resources = [("DeadLetters", "https://sqs/d-dead", "AWS::SQS::Queue")]
            assert statuses(look("dead letters", who)) == [expected]

    def test_log_groups(self) -> None:
        groups = {"logGroups": [{"logGroupName": "kept"}, {"logGroupName": "good", "retentionInDays": 30}]}
        who = patient(logs=Api(describe_log_groups=groups))
        who.resources = [(name, name, "AWS::Logs::LogGroup") for name in ("kept", "good", "lost")]
        lost, kept = look("logs", who)
        assert (lost.status, kept.status) == (Status.FAILURE, Status.WARNING)
        assert "lost" in lost.found
        assert "kept" in kept.found
        assert "good" not in lost.found + kept.found

    @pytest.mark.parametrize(("state", "expected"), [("Enabled", "ok"), ("PendingDeletion", "failure")])
    def test_the_key(self, state: str, expected: str) -> None:
        who = patient(kms=Api(describe_key={"KeyMetadata": {"KeyState": state}}))
        who.outputs["KmsKeyArn"] = "arn:aws:kms:eu-west-1:123456789012:key/1"
        assert statuses(look("key", who)) == [expected]

    @pytest.mark.parametrize(("limit", "expected"), [(1000, "ok"), (40, "warning"), (10, "warning")])
    def test_how_many_lambdas_may_run(self, limit: int, expected: str) -> None:
        account = {"AccountLimit": {"ConcurrentExecutions": limit}}
        assert statuses(look("concurrency", patient(**{"lambda": Api(get_account_settings=account)}))) == [expected]

    @pytest.mark.parametrize(
        ("late", "expected"), [(doctor.OVERDUE_SECONDS + 60, "failure"), (-60, "ok"), (None, "ok")]
    )
    def test_leases(self, monkeypatch: pytest.MonkeyPatch, late: int | None, expected: str) -> None:
        now = 1_800_000_000
        lease = Lease("r", "endpoint", "r-ep-1", 1, LeaseState.CREATED, deadline=now - (late or 0), proof_after=0)
        monkeypatch.setattr("time.time", lambda: now)
        monkeypatch.setattr(ledger, "open_leases", lambda: iter([] if late is None else [lease]))
        assert statuses(look("leases", patient())) == [expected]

    def test_what_broke_on_the_way_is_a_failure(self) -> None:
        (check,) = look("key", patient(kms=Api(describe_key=refusal("NotFoundException", "DescribeKey"))))
        assert check.status is Status.OK, "there is no key of one's own"
        sqs = Api(get_queue_attributes=refusal("QueueDoesNotExist", "GetQueueAttributes"))
        who = patient(sqs=sqs)
        who.resources = [("DeadLetters", "https://sqs/d-dead", "AWS::SQS::Queue")]
        (check,) = look("dead letters", who)
        assert (check.status, "QueueDoesNotExist" in check.found) == (Status.FAILURE, True)
