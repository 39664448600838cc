"""Register Model: a judged model becomes a model package with its verdict, and an approved one the champion."""

import json

from dropmill import ledger, packages
from dropmill.contracts import Judgement, Metrics, Plan, RegisteredModel, RegisterInput, SealedDataset
from dropmill.errors import ChampionMoved, RunClosed
from dropmill.model_quality import CONTENT_TYPE, model_quality
from dropmill.naming import dataset_key, metrics_key, model_quality_key, plan_key, verdict_key
from dropmill.step import step
from dropmill.storage import read_document, write_object


def register_model(request: RegisterInput) -> RegisteredModel:
    """The run's model package, with the verdict carried out.

    Raises:
        ChampionMoved: the champion is not the one that the model was judged against any more.
        RunClosed: the run has ended meanwhile.
    """
    run = request.run_id
    row = ledger.find_run(run)
    if row is None or row.closed:
        raise RunClosed(f"run {run} has ended; its model is not registered")
    judgement = read_document(Judgement, verdict_key(run))
    if judgement.round != request.round:
        raise ChampionMoved(f"run {run} has been judged in round {judgement.round} since round {request.round}")
    plan = read_document(Plan, plan_key(run))
    dataset = read_document(SealedDataset, dataset_key(run))
    metrics = read_document(Metrics, metrics_key(run))
    package = row.package
    if package is None:
        statistics = json.dumps(model_quality(metrics), allow_nan=False, indent=2)
        write_object(model_quality_key(run), statistics.encode(), CONTENT_TYPE)
        package = packages.register(plan, dataset, request.training, metrics)
        ledger.record_package(run, package)
    return packages.decide(plan, dataset, package, judgement)


handler = step(register_model)
