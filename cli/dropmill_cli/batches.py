"""Batches as the commands know them: started by hand."""

import json
from datetime import UTC, datetime

from dropmill import aws, champions
from dropmill.contracts import StartedBatch, StartedBatches
from dropmill_cli.endpoints import check_recipe
from dropmill_cli.errors import CommandError
from dropmill_cli.stack import Stack


def start(stack: Stack, recipe: str) -> StartedBatch:
    """Start a batch of what is new under `scoring/<recipe>/`, as the schedule does.

    Raises:
        CommandError: the recipe has no champion, or Start Scoring failed.
    """
    check_recipe(recipe)
    if champions.find_pointer(recipe).champion is None:
        raise CommandError(
            f"recipe {recipe} has no champion to score with; `dropmill models {recipe}` lists its models, and"
            " `dropmill approve RUN` puts one to use"
        )
    request = {"recipe": recipe, "scheduled_time": datetime.now(UTC).isoformat()}
    answer = aws.functions().invoke(FunctionName=stack.start_scoring, Payload=json.dumps(request).encode())
    with answer["Payload"] as body:
        said = body.read()
    if answer.get("FunctionError"):
        raise CommandError(f"{stack.start_scoring} failed: {_reason(said)}")
    (batch,) = StartedBatches.model_validate_json(said).batches
    return batch


def _reason(document: bytes) -> str:
    try:
        return str(json.loads(document)["errorMessage"])
    except (ValueError, LookupError, TypeError):
        return "its log says why"
