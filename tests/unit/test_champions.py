"""The champion's pointer, and what moves it: verdicts, people, and events that come late, twice or never."""

import unicodedata
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dropmill import aws, champions, ledger, packages, storage
from dropmill.champions import Pointer
from dropmill.contracts import (
    Champion,
    Decision,
    DroppedFile,
    FileFormat,
    Judgement,
    Layout,
    Metrics,
    ObjectVersion,
    Part,
    Plan,
    RegisterInput,
    SealedDataset,
    SealedPart,
    Task,
    TrainedModel,
)
from dropmill.errors import ChampionMoved, RunClosed
from dropmill.naming import dataset_key, metrics_key, package_group, plan_key, verdict_key
from dropmill.recipe import Recipe
from dropmill.settings import settings
from dropmill.steps.register_model import register_model

RECIPE, STACK, BUCKET = "digits", "dropmill-test", "artifacts"
MADE = datetime(2026, 1, 2, tzinfo=UTC)
DROP = ObjectVersion(bucket="drops", key=f"drops/{RECIPE}/x.csv", version_id="v1", size=9)


def run_id(number: int) -> str:
    return f"{RECIPE}-{number:012x}"


def plan(run: str, **recipe: Any) -> Plan:
    return Plan(
        run_id=run,
        recipe_name=RECIPE,
        recipe=Recipe.model_validate({"algorithm": "linear-learner", **recipe}),
        drop=DROP,
        files=[DroppedFile(source=DROP, name="x.csv")],
        layout=Layout(
            format=FileFormat.CSV,
            columns=["a", "b", "label"],
            label_column=2,
            feature_columns=[0, 1],
            classes=["no", "yes"],
            label_values=[0.0, 1.0],
        ),
        task=Task.BINARY,
        hyperparameters={},
        created_at=MADE,
    )


DATASET = SealedDataset(
    feature_dim=2,
    rows=10,
    parts={part: SealedPart(rows=rows, size=1, files=[]) for part, rows in zip(Part, (8, 1, 1), strict=True)},
    hyperparameters={"wd": "0.1", "feature_dim": "2"},
)
METRICS = Metrics(
    task=Task.BINARY,
    metrics={"accuracy": 0.75, "f1": 0.8},
    rows=4,
    classes=["no", "yes"],
    confusion=[[1, 1], [0, 2]],
)


def trained(run: str) -> TrainedModel:
    return TrainedModel(
        training_job=f"job-{run}", artifact=f"s3://{BUCKET}/models/{run}.tar.gz", hyperparameters={"wd": "0.2"}
    )


def candidate(number: int) -> Champion:
    return Champion(
        recipe=RECIPE,
        version=1,
        package=f"arn:package/{number}",
        run_id=run_id(number),
        algorithm="kmeans",
        task=Task.CLUSTERING,
        feature_dim=2,
        artifact="s3://a/b",
        moved_at=MADE,
    )


@pytest.mark.usefixtures("ledger_table")
class TestPointer:
    def test_there_is_none_at_first(self) -> None:
        assert champions.find_pointer(RECIPE) == Pointer(0, None)
        assert champions.find_pointer(RECIPE).champion is None

    def test_of_two_that_read_the_same_one_moves_it(self) -> None:
        for version in (0, 1):
            pointer = champions.find_pointer(RECIPE)
            assert pointer.version == version
            assert champions.crown(candidate(2 * version), pointer, None)
            assert not champions.crown(candidate(2 * version + 1), pointer, None)
            assert champions.acted_on(RECIPE, f"arn:package/{2 * version + 1}") is None
        found = champions.find_pointer(RECIPE).champion
        assert found is not None
        assert (found.run_id, found.version) == (run_id(2), 2)

    def test_what_is_taken_away_leaves_its_version(self) -> None:
        assert champions.crown(candidate(1), champions.find_pointer(RECIPE), None)
        before = champions.find_pointer(RECIPE)
        assert before.champion is not None
        assert champions.dethrone(before.champion, before, "Approved")
        assert champions.find_pointer(RECIPE) == Pointer(2, None)
        assert champions.find_pointer(RECIPE).champion is None
        assert not champions.crown(candidate(2), before, None)
        assert not champions.crown(candidate(2), Pointer(0, None), None)
        assert champions.crown(candidate(2), champions.find_pointer(RECIPE), None)

    def test_an_approval_that_changed_since_it_was_read_moves_nothing(self) -> None:
        assert champions.note(RECIPE, "arn:package/1", run_id(1), "Rejected", None)
        assert not champions.crown(candidate(1), champions.find_pointer(RECIPE), None)
        assert champions.find_pointer(RECIPE) == Pointer(0, None)
        assert champions.crown(candidate(1), champions.find_pointer(RECIPE), "Rejected")

    def test_recipes_have_pointers_of_their_own(self) -> None:
        assert champions.crown(candidate(1), champions.find_pointer(RECIPE), None)
        assert champions.find_pointer("other") == Pointer(0, None)

    @hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
    @given(data=st.data())
    def test_each_version_is_written_once(self, data: st.DataObject) -> None:
        """Movers read when they like and write when they like: whatever they read is overwritten at most once."""
        recipe = uuid.uuid4().hex
        held = [champions.find_pointer(recipe)] * 3
        written: list[int] = []
        for number in range(data.draw(st.integers(1, 12))):
            mover = data.draw(st.integers(0, 2))
            pointer = held[mover]
            if data.draw(st.booleans()):
                held[mover] = champions.find_pointer(recipe)
            else:
                wanted = candidate(number).model_copy(update={"recipe": recipe})
                moved = champions.crown(wanted, pointer, None)
                assert moved == (pointer.version not in written)
                if moved:
                    written.append(pointer.version)
        assert written == list(range(len(written)))
        assert champions.find_pointer(recipe).version == len(written)


@dataclass
class Registry:
    """SageMaker's model registry, as far as it is asked. `before_update` runs before a package changes."""

    groups: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    before_update: Callable[[], object] = lambda: None

    def describe_model_package_group(self, *, ModelPackageGroupName: str) -> dict[str, Any]:  # noqa: N803  the API's name
        if ModelPackageGroupName not in self.groups:
            raise refused("ValidationException", f"ModelPackageGroup {ModelPackageGroupName} does not exist.")
        return {"ModelPackageGroupArn": f"arn:aws:sagemaker:us-east-1:1:model-package-group/{ModelPackageGroupName}"}

    def create_model_package_group(self, **request: Any) -> dict[str, Any]:
        name = request["ModelPackageGroupName"]
        if name in self.groups:
            raise refused("ValidationException", "Model Package Group already exists")
        self.groups[name] = request["Tags"]
        return self.describe_model_package_group(ModelPackageGroupName=name)

    def create_model_package(self, **request: Any) -> dict[str, Any]:
        arn = self.tokens.setdefault(
            request["ClientToken"],
            f"arn:aws:sagemaker:us-east-1:1:model-package/{request['ModelPackageGroupName']}/{len(self.made) + 1}",
        )
        self.made.setdefault(arn, {**request, "ModelPackageArn": arn})
        return {"ModelPackageArn": arn}

    def describe_model_package(self, *, ModelPackageName: str) -> dict[str, Any]:  # noqa: N803  the API's name
        return dict(self.made[ModelPackageName])

    def update_model_package(self, *, ModelPackageArn: str, **changes: Any) -> None:  # noqa: N803  the API's name
        self.before_update()
        found = self.made[ModelPackageArn]
        metadata = {**found["CustomerMetadataProperties"], **changes.pop("CustomerMetadataProperties", {})}
        self.made[ModelPackageArn] = {**found, **changes, "CustomerMetadataProperties": metadata}


def refused(code: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Something")


@pytest.fixture
def registry(ledger_table: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setenv("ARTIFACT_BUCKET", BUCKET)
    monkeypatch.setenv("CODE_VERSION", "unknown")
    settings.cache_clear()
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    registry = Registry()
    monkeypatch.setattr(aws, "sagemaker", lambda: registry)
    yield registry
    settings.cache_clear()


def judged(number: int, verdict: Decision, *, against: int = 0, round: int = 1) -> str:  # noqa: A002  as it is called
    """A run that has been judged, with its documents; returns its id."""
    run = run_id(number)
    ledger.open_run(ledger.Run(run_id=run, recipe=RECIPE, drop=DROP, execution_arn="arn", started_at=1))
    storage.write_document(plan_key(run), plan(run))
    storage.write_document(dataset_key(run), DATASET)
    storage.write_document(metrics_key(run), METRICS)
    judgement = Judgement(
        run_id=run,
        round=round,
        verdict=verdict,
        reasons=["because (of) it"],
        champion_version=against,
        metric="f1",
        margin=0,
        judged_at=MADE,
    )
    storage.write_document(verdict_key(run), judgement)
    return run


def registered(number: int, verdict: Decision, *, against: int = 0, round: int = 1) -> str:  # noqa: A002  as it is called
    run = judged(number, verdict, against=against, round=round)
    return register_model(RegisterInput(run_id=run, round=round, training=trained(run))).package


def champion_run() -> str | None:
    found = champions.find_pointer(RECIPE).champion
    return found.run_id if found else None


class TestRegistration:
    def test_an_approved_model_becomes_the_champion(self, registry: Registry) -> None:
        package = registered(1, Decision.APPROVED)
        found = champions.find_pointer(RECIPE).champion
        assert found is not None
        assert found.model_dump(exclude={"moved_at"}) == {
            "recipe": RECIPE,
            "version": 1,
            "package": package,
            "run_id": run_id(1),
            "algorithm": "linear-learner",
            "task": Task.BINARY,
            "feature_dim": 2,
            "classes": ["no", "yes"],
            "artifact": f"s3://{BUCKET}/models/{run_id(1)}.tar.gz",
        }
        made = registry.made[package]
        assert made["ModelApprovalStatus"] == "Approved"
        assert made["ApprovalDescription"] == "because (of) it"
        assert made["CustomerMetadataProperties"]["verdict"] == "approved"
        assert made["CustomerMetadataProperties"]["hyperparameters.wd"] == "0.2", "what a search found wins"
        (tags,) = registry.groups.values()
        assert {tag["Key"]: tag["Value"] for tag in tags} == {"dropmill:stack": STACK, "dropmill:recipe": RECIPE}

    @pytest.mark.parametrize(
        ("verdict", "status"), [(Decision.REJECTED, "Rejected"), (Decision.WAITING, "PendingManualApproval")]
    )
    def test_any_other_does_not(self, registry: Registry, verdict: Decision, status: str) -> None:
        package = registered(1, verdict)
        assert registry.made[package]["ModelApprovalStatus"] == status
        assert champion_run() is None

    def test_whoever_was_judged_against_another_champion_compares_again_with_the_same_package(
        self, registry: Registry
    ) -> None:
        registered(1, Decision.APPROVED)
        with pytest.raises(ChampionMoved, match="compared again"):
            registered(2, Decision.APPROVED, against=0)
        assert champion_run() == run_id(1)
        package = registered(2, Decision.APPROVED, against=1, round=2)
        assert champion_run() == run_id(2)
        assert registry.made[package]["ModelApprovalStatus"] == "Approved"
        assert len(registry.made) == 2

    def test_a_champion_that_was_taken_away_is_another_one(self, registry: Registry) -> None:
        first = registered(1, Decision.APPROVED)
        registry.update_model_package(ModelPackageArn=first, ModelApprovalStatus="Rejected")
        packages.follow(first)
        with pytest.raises(ChampionMoved):
            registered(2, Decision.APPROVED, against=1)
        registered(2, Decision.APPROVED, against=0, round=2)
        assert champion_run() == run_id(2)

    @pytest.mark.parametrize("verdict", [Decision.APPROVED, Decision.REJECTED])
    def test_a_call_that_died_before_it_spoke_is_made_good(self, registry: Registry, verdict: Decision) -> None:
        def die() -> None:
            registry.before_update = lambda: None
            raise ConnectionError("cut off")

        registry.before_update = die
        with pytest.raises(ConnectionError):
            registered(1, verdict)
        package = registered(1, verdict)
        assert len(registry.made) == 1
        assert registry.made[package]["ModelApprovalStatus"] == verdict.value.capitalize()
        assert champion_run() == (run_id(1) if verdict is Decision.APPROVED else None)

    def test_a_rejection_at_the_last_moment_stands(self, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        crown = champions.crown

        def and_reject(candidate: Champion, *known: Any) -> bool:
            done = crown(candidate, *known)
            registry.made[candidate.package]["ModelApprovalStatus"] = "Rejected"
            return done

        monkeypatch.setattr(champions, "crown", and_reject)
        package = registered(1, Decision.APPROVED)
        assert registry.made[package]["ModelApprovalStatus"] == "Rejected"
        assert champion_run() is None

    def test_a_note_that_comes_between_costs_no_round(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        crown = champions.crown

        def noted_first(candidate: Champion, *known: Any) -> bool:
            monkeypatch.setattr(champions, "crown", crown)
            packages.follow(candidate.package)
            return crown(candidate, *known)

        monkeypatch.setattr(champions, "crown", noted_first)
        package = registered(1, Decision.APPROVED)
        assert registry.made[package]["ModelApprovalStatus"] == "Approved"
        assert champion_run() == run_id(1)

    def test_an_approval_by_way_of_pending_moves_the_champion_back(self, registry: Registry) -> None:
        first = registered(1, Decision.APPROVED)
        registered(2, Decision.APPROVED, against=1)
        for approval in ("PendingManualApproval", "Approved"):
            registry.made[first]["ModelApprovalStatus"] = approval
            packages.follow(first)
        assert champion_run() == run_id(1)

    def test_a_call_that_died_after_the_crown_went_on_does_not_take_it_back(self, registry: Registry) -> None:
        def die() -> None:
            registry.before_update = lambda: None
            raise ConnectionError("cut off")

        registry.before_update = die
        with pytest.raises(ConnectionError):
            registered(1, Decision.APPROVED)
        registered(2, Decision.APPROVED, against=1)
        first = registered(1, Decision.APPROVED)
        assert registry.made[first]["ModelApprovalStatus"] == "Approved"
        packages.follow(first)
        assert champion_run() == run_id(2)

    @pytest.mark.parametrize("verdict", list(Decision))
    @pytest.mark.parametrize("approval", ["Approved", "Rejected"])
    def test_what_a_person_decided_meanwhile_stands(self, registry: Registry, verdict: Decision, approval: str) -> None:
        registered(9, Decision.APPROVED)
        with pytest.raises(ChampionMoved):
            registered(1, Decision.APPROVED, against=0)
        package = ledger.package_of(run_id(1))
        assert package is not None
        registry.update_model_package(ModelPackageArn=package, ModelApprovalStatus=approval)
        packages.follow(package)
        assert registered(1, verdict, against=1, round=2) == package
        assert registry.made[package]["ModelApprovalStatus"] == approval
        assert champion_run() == run_id(1 if approval == "Approved" else 9)

    def test_a_run_that_has_ended_registers_nothing(self, registry: Registry) -> None:
        run = judged(1, Decision.APPROVED)
        ledger.close_run(run)
        with pytest.raises(RunClosed):
            register_model(RegisterInput(run_id=run, round=1, training=trained(run)))
        assert registry.made == {}
        assert champion_run() is None

    def test_an_older_round_registers_nothing(self, registry: Registry) -> None:
        run = judged(1, Decision.APPROVED, round=2)
        with pytest.raises(ChampionMoved, match="round 2 since round 1"):
            register_model(RegisterInput(run_id=run, round=1, training=trained(run)))
        assert registry.made == {}

    @given(st.text(max_size=400))
    def test_any_text_becomes_metadata_that_sagemaker_takes(self, text: str) -> None:
        value = packages.metadata_value(text)
        assert len(value) == min(len(text), 256)
        strange = [letter for letter in value if letter not in "_.:/=+-@"]
        assert {unicodedata.category(letter)[0] for letter in strange} <= set("LNZ")
        kept = "s3://drops/a b_c=1+2@x-y.csv"
        assert packages.metadata_value(kept) == kept

    def test_the_code_s_version_is_named_where_it_is_known(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unknown = registered(1, Decision.WAITING)
        monkeypatch.setenv("CODE_VERSION", "0a1b2c3")
        settings.cache_clear()
        known = registered(2, Decision.WAITING)
        commits = [registry.made[package]["MetadataProperties"].get("CommitId") for package in (unknown, known)]
        assert commits == [None, "0a1b2c3"]


class TestApprovals:
    def test_an_approval_moves_the_pointer_and_a_rejection_takes_it_away(self, registry: Registry) -> None:
        package = registered(1, Decision.WAITING)
        for approval, run in (("Approved", run_id(1)), ("Rejected", None), ("Approved", run_id(1))):
            registry.update_model_package(ModelPackageArn=package, ModelApprovalStatus=approval)
            for _ in range(2):  # events come more than once
                packages.follow(package)
                assert champion_run() == run
        assert champions.find_pointer(RECIPE).version == 3

    @pytest.mark.usefixtures("registry")
    def test_an_event_that_comes_after_the_next_champion_moves_nothing(self) -> None:
        first = registered(1, Decision.APPROVED)
        registered(2, Decision.APPROVED, against=1)
        packages.follow(first)
        assert champion_run() == run_id(2)

    def test_the_event_of_a_package_that_was_just_made_is_no_decision(self, registry: Registry) -> None:
        """It may be followed between the crown and the approval, and the approval's own event come any time later."""

        def follow_its_making() -> None:
            registry.before_update = lambda: None
            (made,) = registry.made
            packages.follow(made)

        registry.before_update = follow_its_making
        first = registered(1, Decision.APPROVED)
        assert champions.acted_on(RECIPE, first) == "Approved"
        registered(2, Decision.APPROVED, against=1)
        packages.follow(first)
        assert champion_run() == run_id(2)

    @pytest.mark.usefixtures("registry")
    def test_a_person_may_bring_a_former_champion_back(self) -> None:
        first = registered(1, Decision.APPROVED)
        registered(2, Decision.APPROVED, against=1)
        found = packages.follow(first, deliberate=True)
        assert found is not None
        assert (found.run_id, found.version) == (run_id(1), 3)
        assert packages.follow(first, deliberate=True) == found

    @pytest.mark.usefixtures("registry")
    def test_a_rejected_challenger_leaves_the_champion(self) -> None:
        registered(1, Decision.APPROVED)
        other = registered(2, Decision.REJECTED, against=1)
        packages.follow(other)
        assert champion_run() == run_id(1)

    def test_a_decision_that_changes_while_it_is_followed_is_read_again(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = registered(1, Decision.WAITING)
        registry.update_model_package(ModelPackageArn=package, ModelApprovalStatus="Approved")
        read = champions.find_pointer

        def changed(recipe: str) -> Pointer:
            monkeypatch.setattr(champions, "find_pointer", read)
            registry.update_model_package(ModelPackageArn=package, ModelApprovalStatus="Rejected")
            packages.follow(package)
            return read(recipe)

        monkeypatch.setattr(champions, "find_pointer", changed)
        assert packages.follow(package) is None
        assert champion_run() is None

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"CustomerMetadataProperties": {}}, "was not registered by stack"),
            ({"CustomerMetadataProperties": {"stack": "another", "run": run_id(1)}}, "was not registered by stack"),
            ({"CustomerMetadataProperties": {"stack": STACK, "run": "../../x"}}, "was not registered by stack"),
            ({"ModelPackageGroupName": f"{STACK}-other"}, "is not in the group of its run's recipe"),
        ],
    )
    def test_a_package_of_somebody_else_is_none_of_ours(
        self, registry: Registry, change: dict[str, Any], said: str
    ) -> None:
        package = registered(1, Decision.WAITING)
        registry.made[package] |= {"ModelApprovalStatus": "Approved", **change}
        with pytest.raises(packages.NotOurs, match=said):
            packages.follow(package)
        assert champion_run() is None


class TestGroupNames:
    @given(st.text("ab-", min_size=1, max_size=50), st.from_regex(r"[a-z0-9](-?[a-z0-9]){0,19}", fullmatch=True))
    def test_they_fit_and_begin_with_the_stack(self, stack: str, recipe: str) -> None:
        name = package_group(stack, recipe) if len(stack) <= 50 else ""
        assert name.startswith(f"{stack}-")
        assert len(name) <= 63

    def test_a_long_recipe_becomes_a_digest(self) -> None:
        names = {package_group("s" * 40, "r" * 39 + last) for last in "ab"}
        assert len(names) == 2
        assert {len(name) for name in names} == {53}

    def test_a_stack_that_is_too_long_is_said(self) -> None:
        with pytest.raises(ValueError, match="may have 50 letters"):
            package_group("s" * 51, "r" * 20)
