"""Deploy Endpoint: configuration and endpoint, each under its lease; InService answers the task token.

Where there is a champion, the endpoint serves it too, in a variant of its own.
"""

from dropmill import aws
from dropmill.contracts import DeployInput, Plan
from dropmill.instances import ENDPOINT_LIFETIME_SECONDS
from dropmill.leases import launch
from dropmill.naming import plan_key
from dropmill.requests import endpoint_config_request, endpoint_request
from dropmill.step import step
from dropmill.storage import read_document

CONFIG_LIFETIME_SECONDS = 86_400
"""A configuration costs nothing; its lease has to outlast the endpoint's retries for capacity."""


def deploy_endpoint(request: DeployInput) -> None:
    plan = read_document(Plan, plan_key(request.run_id))
    config = launch(
        request.run_id,
        plan.recipe_name,
        "endpoint-config",
        lifetime_seconds=CONFIG_LIFETIME_SECONDS,
        create=lambda name: aws.sagemaker().create_endpoint_config(
            **endpoint_config_request(plan, request.model, name, champion=request.champion_model)
        ),
        round=request.round,
    )
    launch(
        request.run_id,
        plan.recipe_name,
        "endpoint",
        lifetime_seconds=ENDPOINT_LIFETIME_SECONDS,
        create=lambda name: aws.sagemaker().create_endpoint(**endpoint_request(plan, config, name)),
        token=request.task_token,
        token_order=request.retry_count,
        round=request.round,
    )


handler = step(deploy_endpoint)
