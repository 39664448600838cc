"""Claims against a real ledger: each version of a file belongs to one batch at most, whatever happens to batches."""

from datetime import UTC, datetime

import boto3
import pytest

from dropmill import claims, ledger, storage
from dropmill.claims import Claim, ClaimState
from dropmill.contracts import (
    ObjectVersion,
    PredictionsFile,
    PredictionsManifest,
    RunKind,
    ScoredFile,
    SetAside,
    Task,
)
from dropmill.errors import RunClosed
from dropmill.ledger import Run
from dropmill.naming import predictions_manifest_key
from dropmill.settings import settings
from dropmill.words import Words

FIRST, SECOND = "digits-score-20260101t0300", "digits-score-20260102t0300"


def source(name: str, version: str = "v1") -> ObjectVersion:
    return ObjectVersion(bucket="drops", key=f"scoring/digits/{name}", version_id=version, size=10)


A, B, C = source("a.csv"), source("b.csv"), source("c.csv")


def manifest(batch: str, scored: list[ObjectVersion], set_aside: list[ObjectVersion]) -> PredictionsManifest:
    return PredictionsManifest(
        batch=batch,
        recipe="digits",
        recipe_version=None,
        model_package="arn:package/1",
        training_run="digits-0123456789ab",
        algorithm="kmeans",
        task=Task.CLUSTERING,
        format="csv",
        columns=["row", "prediction"],
        rows=len(scored),
        files=[
            ScoredFile(source=one, name=one.file_name, rows=1, predictions=[PredictionsFile(key="k", rows=1)])
            for one in scored
        ],
        set_aside=[SetAside.of(one, one.file_name, [Words("ragged"), Words("empty")]) for one in set_aside],
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.fixture(autouse=True)
def stack(ledger_table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTIFACT_BUCKET", "artifacts")
    settings.cache_clear()
    boto3.client("s3").create_bucket(Bucket="artifacts")
    for batch in (FIRST, SECOND):
        ledger.open_run(Run(batch, "digits", None, f"arn:{batch}", 1_767_225_600, RunKind.SCORING))


def test_two_batches_never_hold_the_same_file() -> None:
    claims.claim(FIRST, [A, B], 1)
    claims.claim(SECOND, [A, B, C], 2)
    assert claims.held_by(FIRST) == [A, B]
    assert claims.held_by(SECOND) == [C]
    assert claims.unclaimed([A, B, C]) == []


def test_each_version_is_a_file_of_its_own() -> None:
    claims.claim(FIRST, [A], 1)
    newer = source("a.csv", "v2")
    assert claims.unclaimed([newer, A]) == [newer]


def test_more_files_than_a_transaction_takes() -> None:
    many = [source(f"{number:03}.csv") for number in range(2 * claims.CLAIMED_AT_ONCE + 3)]
    claims.claim(FIRST, many[40:60], 1)
    claims.claim(SECOND, many, 2)
    assert claims.held_by(SECOND) == many[:40] + many[60:]
    assert claims.unclaimed([*many, C]) == [C]


def test_a_batch_that_has_ended_claims_nothing_more() -> None:
    ledger.close_run(FIRST)
    with pytest.raises(RunClosed, match="has ended"):
        claims.claim(FIRST, [A], 1)
    assert claims.unclaimed([A]) == [A]


def test_what_is_given_back_is_there_for_the_next_batch() -> None:
    claims.claim(FIRST, [A, B], 1)
    assert claims.give_back(FIRST) == 2
    claims.claim(SECOND, [A], 2)
    assert claims.held_by(FIRST) == []
    # Whoever gives back late takes nothing from the batch that has claimed it since.
    assert claims.give_back(FIRST) == 0
    assert claims.find_claim(A) == Claim(SECOND, ClaimState.CLAIMED)


def test_a_slow_giver_back_leaves_the_next_batch_its_claim() -> None:
    claims.claim(FIRST, [A], 1)
    notes = claims._notes(FIRST)
    _, held = next(notes)
    claims.give_back(FIRST)
    claims.claim(SECOND, [A], 2)
    claims._give_back_one(FIRST, held)
    assert claims.find_claim(A) == Claim(SECOND, ClaimState.CLAIMED)


def test_a_batch_counts_once_it_is_committed() -> None:
    claims.claim(FIRST, [A, B], 1)
    uri = claims.commit(manifest(FIRST, [A], [B]))
    assert uri == f"s3://artifacts/{predictions_manifest_key('digits', FIRST)}"
    assert ledger.find_run(FIRST) is not None
    ledger.close_run(FIRST)
    claims.settle(claims.manifest_of(FIRST, "digits"))
    assert claims.find_claim(A) == Claim(FIRST, ClaimState.SCORED)
    assert claims.find_claim(B) == Claim(FIRST, ClaimState.SET_ASIDE, "ragged; empty")
    assert claims.held_by(FIRST) == []
    assert claims.unclaimed([A, B]) == []


def test_a_batch_that_was_closed_first_is_never_committed() -> None:
    claims.claim(FIRST, [A], 1)
    ledger.close_run(FIRST)
    with pytest.raises(RunClosed, match="the next one"):
        claims.commit(manifest(FIRST, [A], []))
    with pytest.raises(storage.MissingDocument):
        storage.read_document(PredictionsManifest, predictions_manifest_key("digits", FIRST))


def test_a_commit_that_was_cut_off_is_finished_by_whoever_ends_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    claims.claim(FIRST, [A], 1)
    committed = manifest(FIRST, [A], [])
    with monkeypatch.context() as patch:
        patch.setattr(claims, "predictions_manifest_key", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            claims.commit(committed)
    ledger.close_run(FIRST)
    # The Lambda is run again, and it counted already.
    claims.commit(committed)
    assert claims.manifest_of(FIRST, "digits") == committed


def test_a_manifest_that_was_not_written_is_written_from_the_one_laid_down() -> None:
    committed = manifest(FIRST, [A], [])
    claims.commit(committed)
    key = predictions_manifest_key("digits", FIRST)
    boto3.client("s3").delete_object(Bucket="artifacts", Key=key)
    assert claims.manifest_of(FIRST, "digits") == committed
    assert storage.read_document(PredictionsManifest, key) == committed


def test_a_claim_that_the_manifest_does_not_know_is_given_back() -> None:
    claims.claim(FIRST, [A, C], 1)
    claims.settle(manifest(FIRST, [A], []))
    assert claims.unclaimed([A, C]) == [C]
