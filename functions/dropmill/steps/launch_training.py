"""Launch Training: a training job under a lease; its end answers the task token."""

from dropmill import aws
from dropmill.contracts import LaunchInput, Plan, SealedDataset
from dropmill.leases import PROVISIONING_SECONDS, launch
from dropmill.naming import dataset_key, plan_key
from dropmill.requests import training_request
from dropmill.step import step
from dropmill.storage import read_document


def launch_training(request: LaunchInput) -> None:
    plan = read_document(Plan, plan_key(request.run_id))
    dataset = read_document(SealedDataset, dataset_key(request.run_id))
    launch(
        request.run_id,
        plan.recipe_name,
        "training",
        lifetime_seconds=plan.recipe.training.max_runtime + PROVISIONING_SECONDS,
        create=lambda name: aws.sagemaker().create_training_job(**training_request(plan, dataset, name)),
        token=request.task_token,
        token_order=request.retry_count,
    )


handler = step(launch_training)
