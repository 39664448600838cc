"""Launch Tuning: a search for hyperparameters under a lease; its end answers the task token with the best job."""

from dropmill import aws
from dropmill.contracts import LaunchInput, Plan, SealedDataset
from dropmill.errors import InvalidRecipe
from dropmill.leases import PROVISIONING_SECONDS, launch
from dropmill.naming import dataset_key, plan_key
from dropmill.requests import tuning_request
from dropmill.step import step
from dropmill.storage import read_document


def launch_tuning(request: LaunchInput) -> None:
    plan = read_document(Plan, plan_key(request.run_id))
    dataset = read_document(SealedDataset, dataset_key(request.run_id))
    tuning = plan.recipe.tuning
    if tuning is None:
        raise InvalidRecipe(f"recipe {plan.recipe_name!r} has no tuning section")
    launch(
        request.run_id,
        plan.recipe_name,
        "tuning",
        lifetime_seconds=tuning.max_runtime + PROVISIONING_SECONDS,
        create=lambda name: aws.sagemaker().create_hyper_parameter_tuning_job(
            **tuning_request(plan, tuning, dataset, name)
        ),
        token=request.task_token,
        token_order=request.retry_count,
    )


handler = step(launch_tuning)
