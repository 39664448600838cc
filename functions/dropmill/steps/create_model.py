"""Create Model: the trained artifact becomes a SageMaker model, and beside it the champion's; each under a lease."""

from dropmill import algorithms, aws
from dropmill.champions import find_pointer
from dropmill.classes import predicted_classes
from dropmill.contracts import BatchPlan, Champion, CreatedModel, ModelInput, Plan
from dropmill.errors import ChampionMoved
from dropmill.leases import end_earlier_rounds, launch
from dropmill.naming import Step, batch_plan_key, plan_key
from dropmill.requests import model_request
from dropmill.step import step
from dropmill.storage import MissingDocument, read_document

MODEL_LIFETIME_SECONDS = 2 * 86_400
"""A model costs nothing; its lease only has to outlast the run's own endpoint or transform."""


def create_model(request: ModelInput) -> CreatedModel:
    """The models that are served for an evaluation.

    Raises:
        StillClosing: what an earlier round made is not gone yet.
        ChampionMoved: the champion's model was created a moment ago from another artifact than is its now.
    """
    if request.artifact is None:
        return _for_batch(request)
    if request.round > 1:
        end_earlier_rounds(request.run_id, request.round)
    plan = read_document(Plan, plan_key(request.run_id))
    model = _create(request, plan.recipe_name, "model", plan.recipe.algorithm, request.artifact)
    created = CreatedModel(
        model=model, serve=plan.recipe.evaluation.serve, keep_endpoint=plan.recipe.evaluation.keep_endpoint
    )
    champion = find_pointer(plan.recipe_name).champion
    if champion is None:
        return created
    found = {"champion": champion.package, "champion_version": champion.version, "champion_run": champion.run_id}
    reason = incomparable(plan, champion)
    if reason is not None:
        return created.model_copy(update={**found, "incomparable": reason})
    name = _create(request, plan.recipe_name, "champion-model", champion.algorithm, champion.artifact)
    if _artifact(name) != champion.artifact:
        raise ChampionMoved(f"the champion of {plan.recipe_name} changed while its model {name} was being created")
    return created.model_copy(
        update={**found, "champion_model": name, "champion_algorithm": champion.algorithm, "incomparable": None}
    )


def _for_batch(request: ModelInput) -> CreatedModel:
    batch = read_document(BatchPlan, batch_plan_key(request.run_id))
    champion = batch.champion
    model = _create(request, batch.recipe_name, "model", champion.algorithm, champion.artifact)
    return CreatedModel(model=model)


def _create(request: ModelInput, recipe: str, step_: Step, algorithm: str, artifact: str) -> str:
    return launch(
        request.run_id,
        recipe,
        step_,
        lifetime_seconds=MODEL_LIFETIME_SECONDS,
        create=lambda name: aws.sagemaker().create_model(**model_request(request.run_id, algorithm, artifact, name)),
        round=request.round,
    )


def _artifact(model: str) -> str | None:
    return aws.sagemaker().describe_model(ModelName=model)["PrimaryContainer"].get("ModelDataUrl")


def incomparable(plan: Plan, champion: Champion) -> str | None:
    """Why the champion can't answer a run's test rows as its own model does, in words; None: it can."""
    if champion.task != plan.task:
        return f"the champion is a {champion.task.value} model, this one a {plan.task.value} model"
    if champion.feature_dim != plan.layout.feature_dim:
        return f"the champion takes {champion.feature_dim} features, this model {plan.layout.feature_dim}"
    if champion.classes != predicted_classes(plan):
        return "the champion knows other classes than this model"
    if plan.layout.sparse_columns is not None and not algorithms.get(champion.algorithm).takes_sparse:
        return f"the rows are sparse, which the champion's algorithm, {champion.algorithm}, does not take"
    try:
        other = read_document(Plan, plan_key(champion.run_id))
    except (MissingDocument, ValueError):
        return None  # no record of how its rows were read speaks against it
    if other.recipe.data.scale != plan.recipe.data.scale:
        return "the champion learned from features of another scale (data.scale)"
    names, others = _feature_names(plan), _feature_names(other)
    if names is not None and others is not None and names != others:
        return "the champion learned from other columns, or from the same in another order"
    return None


def _feature_names(plan: Plan) -> list[str] | None:
    """The names of the features in order; None where the columns have no names of their own."""
    layout = plan.layout
    if not layout.columns or layout.columns == [str(index) for index in range(len(layout.columns))]:
        return None
    return [layout.columns[index] for index in layout.feature_columns]


handler = step(create_model)
