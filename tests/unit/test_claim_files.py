"""Which files a batch takes, and that a batch that was cut off goes on with those it took."""

from datetime import UTC, datetime

import boto3
import pytest

from dropmill import champions, claims, ledger, storage
from dropmill.champions import Pointer
from dropmill.contracts import (
    BatchPlan,
    Champion,
    ClaimedFiles,
    ClaimInput,
    DroppedFile,
    FileFormat,
    Layout,
    ObjectVersion,
    Plan,
    Shards,
    Task,
)
from dropmill.errors import NoChampion, RunClosed
from dropmill.naming import batch_plan_key, plan_key, shards_key
from dropmill.recipe import parse_recipe
from dropmill.settings import settings
from dropmill.steps import claim_files

RUN = "digits-0123456789ab"
CHAMPION = Champion(
    recipe="digits",
    version=1,
    package="arn:package/1",
    run_id=RUN,
    algorithm="kmeans",
    task=Task.CLUSTERING,
    feature_dim=2,
    artifact="s3://artifacts/model.tar.gz",
    moved_at=datetime(2026, 1, 1, tzinfo=UTC),
)
ROWS = b"a,b\n1,2\n3,4\n"


@pytest.fixture(autouse=True)
def stack(ledger_table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DROP_BUCKET": "drops",
        "ARTIFACT_BUCKET": "artifacts",
        "CONVERSION_CONCURRENCY": "7",
        "MAX_INSTANCE_HOURS": "12",
    }.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    s3 = boto3.client("s3")
    for bucket in ("drops", "artifacts"):
        s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket="drops", VersioningConfiguration={"Status": "Enabled"})
    drop = ObjectVersion(bucket="drops", key="drops/digits/a.csv", version_id="v", size=10)
    plan = Plan(
        run_id=RUN,
        recipe_name="digits",
        recipe=parse_recipe("algorithm: kmeans", "digits"),
        recipe_version="r1",
        drop=drop,
        files=[DroppedFile(source=drop, name="a.csv")],
        layout=Layout(format=FileFormat.CSV, header=True, columns=["a", "b"], feature_columns=[0, 1]),
        task=Task.CLUSTERING,
        hyperparameters={},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    storage.write_document(plan_key(RUN), plan)
    monkeypatch.setattr(
        champions, "find_pointer", lambda recipe: Pointer(1, CHAMPION) if recipe == "digits" else Pointer(0, None)
    )


def put(name: str, body: bytes = ROWS) -> str:
    return str(boto3.client("s3").put_object(Bucket="drops", Key=f"scoring/digits/{name}", Body=body)["VersionId"])


def claim(number: int = 1, recipe: str = "digits") -> ClaimedFiles:
    batch = f"{recipe}-score-2026010{number}t0300"
    return claim_files.claim_files(ClaimInput(run_id=batch, execution_arn=f"arn:{batch}", recipe=recipe))


def plan_of(number: int = 1) -> BatchPlan:
    return storage.read_document(BatchPlan, batch_plan_key(f"digits-score-2026010{number}t0300"))


def test_a_batch_takes_what_is_new_once() -> None:
    version = put("july/a.csv")
    assert claim() == ClaimedFiles(claimed=1, shards=[0], concurrency=7)
    plan = plan_of()
    (file,) = plan.files
    assert (file.file.name, file.file.source.version_id) == ("july/a.csv", version)
    assert (plan.champion, plan.recipe_version) == (CHAMPION, "r1")
    assert plan.recipe.scoring.max_runtime == 12 * 3600, "the stack's limit, which may be lower than it was"
    shards = storage.read_document(Shards, shards_key(plan.run_id)).root
    assert [(piece.file, piece.start, piece.end) for piece in shards[0].pieces] == [(0, 4, 12)]
    put("b.csv")
    assert claim(2).claimed == 1
    assert claim(3).claimed == 0


def test_only_the_latest_version_of_what_is_there_and_not_hidden() -> None:
    put("a.csv")
    version = put("a.csv", b"a,b\n5,6\n")
    for name in ("", "_SUCCESS", ".hidden/x.csv", "_temporary/y.csv", "folder/"):  # the first: the folder's own object
        put(name)
    put("gone.csv")
    boto3.client("s3").delete_object(Bucket="drops", Key="scoring/digits/gone.csv")
    assert claim().claimed == 1
    assert [one.file.source.version_id for one in plan_of().files] == [version]


def test_what_can_not_be_read_is_set_aside_with_its_reason() -> None:
    put("good.csv")
    put("empty.csv", b"")
    put("lacking.csv", b"a,c\n1,2\n")
    claimed = claim()
    assert (claimed.claimed, claimed.shards) == (3, [0])
    plan = plan_of()
    assert [one.file.name for one in plan.files] == ["good.csv"]
    reasons = {one.name: one.reasons[0].in_full() for one in plan.set_aside}
    assert reasons.keys() == {"empty.csv", "lacking.csv"}
    assert "empty" in reasons["empty.csv"]
    assert "'b'" in reasons["lacking.csv"]


def test_a_batch_takes_the_oldest_and_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_files, "FILES_MAX", 3)
    listed = claim_files._listed
    ages = {f"scoring/digits/{number}.csv": age for number, age in enumerate([5, 1, 4, 2, 3])}
    for number in range(5):
        put(f"{number}.csv")
    monkeypatch.setattr(
        claim_files, "_listed", lambda recipe: [[(ages[one.key], one) for _, one in page] for page in listed(recipe)]
    )
    taken = []
    for number in (1, 2):
        claim(number)
        taken.append([one.file.name for one in plan_of(number).files])
    assert taken == [["1.csv", "3.csv", "4.csv"], ["0.csv", "2.csv"]]


def test_run_again_it_goes_on_with_what_it_had_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.csv")
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_document", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            claim()
    boto3.client("s3").put_object(Bucket="drops", Key="scoring/digits/later.csv", Body=ROWS)
    assert claim().claimed == 1
    assert [one.file.name for one in plan_of().files] == ["a.csv"]
    assert claim(2).claimed == 1


def test_files_wait_where_there_is_no_champion() -> None:
    boto3.client("s3").put_object(Bucket="drops", Key="scoring/nobody/a.csv", Body=ROWS)
    with pytest.raises(NoChampion, match="recipe nobody has no model in use"):
        claim(recipe="nobody")
    assert claims.held_by("nobody-score-20260101t0300") == []


def test_nothing_to_score_needs_no_champion() -> None:
    assert claim(recipe="nobody") == ClaimedFiles(claimed=0, shards=[], concurrency=7)


def test_a_batch_that_has_ended_takes_nothing() -> None:
    put("a.csv")
    claim(2)
    put("b.csv")
    ledger.close_run("digits-score-20260102t0300")
    with pytest.raises(RunClosed):
        claim(2)
    assert claim(1).claimed == 1
