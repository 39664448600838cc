"""Endpoints that are brought up by hand: a champion served for a while, under leases that the sweeper ends in time."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from dropmill import algorithms, aws, champions, ledger
from dropmill.contracts import Champion, Plan, RunKind
from dropmill.leases import close_leases, launch
from dropmill.ledger import Lease, LeaseState, Run
from dropmill.naming import endpoint_run_id, plan_key
from dropmill.recipe import RECIPE_NAME, RECIPE_NAME_MAX, Duration
from dropmill.requests import endpoint_config_request, endpoint_request, model_request
from dropmill.resources import RESOURCES, Observed, Presence
from dropmill.storage import MissingDocument, read_document
from dropmill_cli.errors import CommandError

SHORTEST_SECONDS: Final = 600
LONGEST_SECONDS: Final = 7 * 86_400
START_SECONDS: Final = 1800
"""How long SageMaker may take to bring an endpoint into service."""
DOWN_SECONDS: Final = 120
_BESIDES_SECONDS: Final = 7200
"""A model and a configuration cost nothing; their leases outlast the endpoint's."""

_LAG_SECONDS: Final = 10
"""How far the list of open runs may lag behind their rows."""

Say = Callable[[str], None]


class UpDocument(BaseModel):
    """What `dropmill endpoint up --json` prints."""

    endpoint: str
    recipe: str
    run_id: str = Field(description="Under which the ledger keeps what is up")
    model_package: str
    trained_by: str
    until: datetime
    content_types: list[str]
    accepts: list[str]


class DownDocument(BaseModel):
    """What `dropmill endpoint down --json` prints. `leaving` is still being deleted, and the sweeper sees to it."""

    recipe: str
    endpoints: list[str]
    leaving: list[str]


def seconds_of(text: str) -> int:
    """A duration as recipes write it: `2h`, `30m`.

    Raises:
        CommandError: it is none, or too short or too long.
    """
    try:
        seconds: int = TypeAdapter(Duration).validate_python(text)
    except ValidationError:
        raise CommandError(f"{text!r} is no duration; write it like 2h, 30m or 1d") from None
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise CommandError(f"an endpoint stays up for 10m at least and 7d at most, not {text}")
    return seconds


def bring_up(recipe: str, seconds: int, say: Say, *, pause: float) -> UpDocument:
    """Serve a recipe's champion until `seconds` from now, and wait until it answers.

    Raises:
        CommandError: there is no champion, its endpoint is up already, or it does not come into service.
    """
    champion, plan = _champion(recipe)
    for run in _up(recipe):
        lease = ledger.find_lease(run.run_id, "endpoint")
        if lease is None:
            raise CommandError(
                f"another endpoint of {recipe} is being brought up; if nobody does, end it with: dropmill endpoint down"
                f" {recipe}"
            )
        if lease.state is not LeaseState.CLOSED:
            raise CommandError(
                f"endpoint {lease.name} of {recipe} is up until {_moment(lease.deadline)}; take it down first with:"
                f" dropmill endpoint down {recipe}"
            )
    moment = datetime.now(UTC)
    run_id = endpoint_run_id(recipe, moment)
    opened = Run(run_id, recipe, None, "", int(time.time()), RunKind.ENDPOINT)
    if not ledger.open_run(opened):
        raise CommandError(f"another endpoint of {recipe} is being brought up this second; try again")
    if _is_contested(recipe, moment):
        take_down(recipe, [opened], say, pause=pause, patience=0)
        raise CommandError(f"another endpoint of {recipe} is being brought up at this moment; see: dropmill runs")
    try:
        name = _launch(run_id, champion, plan, seconds)
        say(f"creating endpoint {name}")
        observed = _wait(name, pause)
    except BaseException:
        take_down(recipe, [opened], say, pause=pause, patience=0)
        raise
    if observed.answer is None:
        take_down(recipe, [opened], say, pause=pause, patience=0)
        raise CommandError(str(observed.error or f"endpoint {name} was taken away while it was being created"))
    lease = ledger.find_lease(run_id, "endpoint")
    table = algorithms.get(champion.algorithm)
    return UpDocument(
        endpoint=name,
        recipe=recipe,
        run_id=run_id,
        model_package=champion.package,
        trained_by=champion.run_id,
        until=_moment(lease.deadline if lease else int(time.time()) + seconds),
        content_types=list(table.request_content_types),
        accepts=list(table.response_content_types),
    )


def _champion(recipe: str) -> tuple[Champion, Plan]:
    check_recipe(recipe)
    champion = champions.find_pointer(recipe).champion
    if champion is None:
        raise CommandError(
            f"recipe {recipe} has no champion to serve; `dropmill models {recipe}` lists its models, and"
            " `dropmill approve RUN` puts one to use"
        )
    try:
        return champion, read_document(Plan, plan_key(champion.run_id))
    except MissingDocument:
        raise CommandError(f"the plan of {champion.run_id}, which trained the champion, is gone; train anew") from None


def check_recipe(recipe: str) -> None:
    """Raises CommandError for what is no recipe's name."""
    if len(recipe) > RECIPE_NAME_MAX or not RECIPE_NAME.fullmatch(recipe):
        raise CommandError(f"{recipe[:80]!r} is not a recipe's name")


def _up(recipe: str) -> list[Run]:
    return [run for run in ledger.open_runs() if run.kind is RunKind.ENDPOINT and run.recipe == recipe]


def _is_contested(recipe: str, moment: datetime) -> bool:
    """Whether another endpoint of a recipe is brought up about as long as the one of this moment.

    Both have written their rows before they ask, so of two at least one sees the other; the list of open runs may lag
    behind by seconds.
    """
    until = datetime.now(UTC) + timedelta(seconds=1)
    first = moment - timedelta(seconds=_LAG_SECONDS)
    names = {
        endpoint_run_id(recipe, first + timedelta(seconds=number))
        for number in range(int((until - first).total_seconds()) + 1)
    }
    rivals = (ledger.find_run(name) for name in names - {endpoint_run_id(recipe, moment)})
    return any(rival is not None and not rival.closed for rival in rivals)


def _launch(run_id: str, champion: Champion, plan: Plan, seconds: int) -> str:
    """Model, configuration and endpoint, each under its lease."""
    served = plan.model_copy(update={"run_id": run_id})
    client = aws.sagemaker()
    model = launch(
        run_id,
        champion.recipe,
        "model",
        lifetime_seconds=seconds + _BESIDES_SECONDS,
        create=lambda name: client.create_model(**model_request(run_id, champion.algorithm, champion.artifact, name)),
    )
    config = launch(
        run_id,
        champion.recipe,
        "endpoint-config",
        lifetime_seconds=seconds + _BESIDES_SECONDS,
        create=lambda name: client.create_endpoint_config(**endpoint_config_request(served, model, name)),
    )
    return launch(
        run_id,
        champion.recipe,
        "endpoint",
        lifetime_seconds=seconds,
        create=lambda name: client.create_endpoint(**endpoint_request(served, config, name)),
    )


def _wait(name: str, pause: float) -> Observed:
    """The endpoint once it is in service, has failed, or is gone."""
    give_up = time.monotonic() + START_SECONDS
    while True:
        observed = RESOURCES["endpoint"].describe(name)
        if observed.presence is not Presence.PENDING:
            return observed
        if time.monotonic() > give_up:
            raise CommandError(
                f"endpoint {name} is not in service after {START_SECONDS // 60} minutes; it is taken down"
            )
        time.sleep(pause)


def bring_down(recipe: str, say: Say, *, pause: float) -> DownDocument:
    """Take down every endpoint of a recipe that was brought up by hand.

    Raises:
        CommandError: there is none.
    """
    check_recipe(recipe)
    runs = _up(recipe)
    if not runs:
        raise CommandError(f"no endpoint of {recipe} is up; `dropmill endpoint up {recipe}` brings one up")
    return take_down(recipe, runs, say, pause=pause, patience=DOWN_SECONDS)


def take_down(recipe: str, runs: list[Run], say: Say, *, pause: float, patience: float) -> DownDocument:
    """Close the runs of endpoints and what they hold; what isn't gone in `patience` seconds is left to the sweeper."""
    give_up = time.monotonic() + patience
    names: list[str] = []
    left: list[Lease] = []
    for run in runs:
        ledger.close_run(run.run_id)
        names += [lease.name for lease in ledger.leases_of(run.run_id) if lease.step == "endpoint"]
        while (still := close_leases(run.run_id, int(time.time()))) and time.monotonic() < give_up:
            time.sleep(pause)
        left += still
    leaving = [lease.name for lease in left]
    if leaving:
        say(f"still being taken down, and looked after until it is gone: {', '.join(leaving)}")
    return DownDocument(recipe=recipe, endpoints=names, leaving=leaving)


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
