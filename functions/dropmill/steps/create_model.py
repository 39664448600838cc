"""Create Model: the trained artifact becomes a SageMaker model, under a lease."""

from dropmill import aws
from dropmill.contracts import CreatedModel, ModelInput, Plan
from dropmill.leases import launch
from dropmill.naming import plan_key
from dropmill.requests import model_request
from dropmill.step import step
from dropmill.storage import read_document

MODEL_LIFETIME_SECONDS = 86_400
"""A model costs nothing; its lease only has to outlast the run's own endpoint."""


def create_model(request: ModelInput) -> CreatedModel:
    plan = read_document(Plan, plan_key(request.run_id))
    name = launch(
        request.run_id,
        plan.recipe_name,
        "model",
        lifetime_seconds=MODEL_LIFETIME_SECONDS,
        create=lambda name: aws.sagemaker().create_model(**model_request(plan, request.artifact, name)),
    )
    return CreatedModel(model=name)


handler = step(create_model)
