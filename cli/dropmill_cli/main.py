"""The `dropmill` command. Each command is thin; what takes time to import is imported by the command that needs it."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dropmill_cli.errors import CommandError
from dropmill_cli.stack import LOCAL_REGION, LOCAL_STACK, Place, Stack

if TYPE_CHECKING:
    from datetime import datetime

    from dropmill_cli.drops import RecipeChoice
    from dropmill_cli.logs import LogLine
    from dropmill_cli.models import Approval
    from dropmill_cli.runs import RunDocument

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

RUN_FAILED = 1
INTERRUPTED = 130
TERMINATED = 143

_CONTEXT = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}


class Commands(click.Group):
    """Turns what a user can mend into a message and an exit code; a traceback stays for our own mistakes."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            message = _plain(error)
            if message is None:
                raise
            raise CommandError(message) from None


def _plain(error: Exception) -> str | None:
    """What AWS or the network said, in one line; None for an error that is our own mistake."""
    from boto3.exceptions import Boto3Error
    from botocore import exceptions
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    from pydantic import ValidationError

    from dropmill.errors import DropmillError

    if isinstance(error, DropmillError):
        return str(error)
    if isinstance(error, ClientError):
        answer = error.response["Error"]
        return f"AWS refused {error.operation_name}: {answer.get('Code', '')}: {answer.get('Message', '')}"
    if isinstance(error, (exceptions.ConnectionError, HTTPClientError)):
        import os

        url = os.environ.get("AWS_ENDPOINT_URL")
        if url:
            return f"the cloud at {url} is gone: it no longer answers; start one with `dropmill up`"
        return f"AWS can't be reached ({type(error).__name__}); is there a network?"
    if isinstance(error, (BotoCoreError, Boto3Error)):
        return f"AWS can't be asked: {error}"
    if isinstance(error, ValidationError):
        return f"the stack keeps a {error.title} that this dropmill can't read; use the version deployed there"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


@click.group(cls=Commands, context_settings=_CONTEXT)
@click.version_option(package_name="dropmill")
def main() -> None:
    """Drop a dataset into S3; get a trained, evaluated model, and nothing billable left running.

    \b
    dropmill demo                                  a whole run on this machine: no account, no Docker
    dropmill up                                    an embedded cloud, for the commands below
    dropmill drop points.csv --recipe kmeans --wait
    dropmill runs
    dropmill show RUN
    dropmill logs RUN
    dropmill rerun RUN --wait
    dropmill models
    dropmill approve RUN
    dropmill score RECIPE --wait
    dropmill endpoint up RECIPE --for 2h
    dropmill doctor
    dropmill exec -- python tutorial.py            any program, against an embedded cloud

    drop, runs, show, logs, rerun, models, approve, reject, score, endpoint, doctor and remove speak to the embedded
    cloud at http://127.0.0.1:4566 or AWS_ENDPOINT_URL, and to AWS when another stack is named with --stack or
    DROPMILL_STACK.

    Exit codes: 0 done, 1 the run failed or doctor found what would make one fail, 2 the command could not be carried
    out, 130 stopped by Ctrl-C.
    """


def somewhere(command: CommandT) -> CommandT:
    """Options that say which cloud; the command gets them as `place`."""
    import functools

    @functools.wraps(command)
    def with_place(stack: str, endpoint_url: str | None, region: str | None, **arguments: Any) -> Any:
        return command(place=Place(stack, endpoint_url, region), **arguments)

    options = (
        click.option(
            "--stack",
            envvar="DROPMILL_STACK",
            default=LOCAL_STACK,
            show_default=True,
            metavar="NAME",
            help="The deployed stack.  [env: DROPMILL_STACK]",
        ),
        click.option("--endpoint-url", metavar="URL", help="Where an embedded cloud answers.  [env: AWS_ENDPOINT_URL]"),
        click.option("--region", metavar="REGION", help="The stack's region.  [env: AWS_REGION]"),
    )
    wrapped: Any = with_place
    for option in reversed(options):
        wrapped = option(wrapped)
    placed: CommandT = wrapped
    return placed


as_json = click.option("--json", "json_", is_flag=True, help="Print one JSON document on standard output.")
report_folder = click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("reports"),
    show_default=True,
    metavar="DIR",
    help="The report is copied to DIR/<run>/report.html.",
)


def recipe_option(**how: Any) -> Callable[[CommandT], CommandT]:
    return click.option("--recipe", metavar="FILE-OR-NAME", help="A recipe's name, or its YAML file.", **how)


@main.command(short_help="Start an embedded cloud with Dropmill deployed.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=4566, show_default=True, type=click.IntRange(0, 65535), help="0: any free port.")
@click.option(
    "--region",
    envvar=["AWS_REGION", "AWS_DEFAULT_REGION"],
    default=LOCAL_REGION,
    show_default=True,
    help="The region that the stack is deployed to.  [env: AWS_REGION]",
)
@click.option("--no-rules", is_flag=True, help="Serve without event rules, to invoke functions by hand.")
@click.option(
    "--faults",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Let calls, events and jobs go wrong by the rules of FILE (docs/reliability.md).",
)
def up(host: str, port: int, region: str, no_rules: bool, faults: Path | None) -> None:
    """Start an embedded cloud with Dropmill deployed; it runs until Ctrl-C or SIGTERM, and keeps nothing.

    Prints `ready URL` when it serves. Any AWS client works with AWS_ENDPOINT_URL=URL and any credentials. With
    --faults it says at its end, on stderr, how often each rule has acted.

    \b
    Examples:
      dropmill up
      dropmill up --port 5000 --region eu-west-1
      dropmill up --no-rules
      dropmill up --faults faults.yaml
    """
    import threading

    from dropmill_cli.embedded import embedded_cloud

    over = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        over.set()

    # Until it serves, a signal ends the start; from then on it is the way to end.
    _end_on_signals()
    if host not in {"127.0.0.1", "::1", "localhost"}:
        click.echo(f"warning: whoever can reach {host} can run code here; the embedded cloud has no login", err=True)
    with embedded_cloud(host, port, region, rules=not no_rules, faults=faults) as (cloud, stack):
        for number in (signal.SIGINT, *_ending_signals()):
            signal.signal(number, end)
        click.echo(f"ready {cloud.endpoint_url}")
        sys.stdout.flush()
        click.echo(f"drop datasets under s3://{stack.drop_bucket}/drops/<recipe>/; Ctrl-C ends it", err=True)
        over.wait()
        if faults is not None:
            for line in cloud.faults.acted():
                click.echo(f"faults: {line}", err=True)


@main.command(
    "exec",
    short_help="Run a program against an embedded cloud.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("--cloud", metavar="own|URL", help="One of its own, or the one that answers at URL.")
@click.option("--region", metavar="REGION", help="The program's region.  [env: AWS_REGION; default: us-east-1]")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(cloud: str | None, region: str | None, command: tuple[str, ...]) -> None:
    """Run COMMAND, any program that uses AWS, against an embedded cloud instead.

    The cloud is the one that answers at AWS_ENDPOINT_URL or http://127.0.0.1:4566, else one of its own that ends with
    the program. The program gets credentials, region and endpoint in its environment, as SageMaker's execution role;
    what a Python program sends to names under amazonaws.com goes to the embedded cloud too. Its exit code is passed on.

    \b
    Examples:
      dropmill exec -- python tutorial.py
      dropmill exec --cloud own -- python tutorial.py --epochs 3
      dropmill exec -- aws s3 ls
    """
    from dropmill_cli import execute as execution

    _end_on_signals()
    base = execution.forget_aws()
    with execution.cloud_for(cloud, region, base) as (url, in_region, own):
        click.echo(f"running against {'a cloud of its own' if own else f'the cloud at {url}'}", err=True)
        code = execution.run(command, base, url, in_region)
    click.get_current_context().exit(code)


@main.command(short_help="A whole run in an embedded cloud of its own.")
@click.option("--dataset", type=click.Path(path_type=Path), metavar="PATH", help="Default: scikit-learn's digits.")
@click.option(
    "--recipe", default="linear-learner", show_default=True, metavar="FILE-OR-NAME", help="What to make of it."
)
@report_folder
@as_json
def demo(dataset: Path | None, recipe: str, output: Path, json_: bool) -> None:
    """A whole run in an embedded cloud of its own: drop, convert, train, serve, judge, take down.

    \b
    Examples:
      dropmill demo
      dropmill demo --dataset points.csv --recipe kmeans
      dropmill demo --dataset mnist.pkl.gz --recipe zeros.yaml --json
    """
    import tempfile

    from dropmill_cli import drops
    from dropmill_cli.embedded import embedded_cloud
    from dropmill_cli.runs import check_output
    from dropmill_cli.samples import write_digits

    choice = drops.choose_recipe(recipe)
    if dataset is not None:
        drops.check_drop(dataset, choice.name)
    check_output(output)
    _end_on_signals()
    _say("starting an embedded cloud", json_)
    with tempfile.TemporaryDirectory(prefix="dropmill-") as folder, embedded_cloud() as (_, stack):
        file = dataset or write_digits(Path(folder))
        document = _drop_and_wait(stack, file, choice, output, json_, outlives=False)
    _end_with(document)


@main.command(short_help="Drop a file or a folder, which starts a run.")
@click.argument("dataset", type=click.Path(path_type=Path))
@recipe_option(required=True)
@click.option("--wait", is_flag=True, help="Follow the run to its end.")
@report_folder
@somewhere
@as_json
def drop(place: Place, dataset: Path, recipe: str, wait: bool, output: Path, json_: bool) -> None:
    """Drop DATASET, a file or a folder, which starts a run. A recipe file is uploaded first, as recipes/<its name>.

    A folder is one dataset of many files; train/, validation/ and test/ within it say where rows belong. Its files
    are uploaded first, and _SUCCESS, which starts the run, behind them.

    The names of the built-in algorithms, linear-learner and kmeans, are recipes as they stand.

    \b
    Examples:
      dropmill drop points.csv --recipe kmeans
      dropmill drop mnist.pkl.gz --recipe zeros.yaml --wait
      dropmill drop july/ --recipe kmeans
      dropmill drop points.csv --recipe kmeans --stack dropmill --region eu-west-1
    """
    from dropmill_cli import drops
    from dropmill_cli.runs import check_output
    from dropmill_cli.stack import connect

    choice = drops.choose_recipe(recipe)
    drops.check_drop(dataset, choice.name)
    if wait:
        check_output(output)
    stack = connect(place)
    if wait:
        _end_with(_drop_and_wait(stack, dataset, choice, output, json_))
        return
    dropped = drops.drop(stack, dataset, choice)
    if json_:
        _print_json(
            {"run_id": dropped.run_id, "recipe": dropped.recipe, "drop": dropped.uri, "version_id": dropped.version_id}
        )
    else:
        click.echo(f"dropped {dropped.uri}\nrun {dropped.run_id}; follow it with: dropmill show {dropped.run_id}")


@main.command(short_help="List the latest runs.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many.")
@somewhere
@as_json
def runs(place: Place, limit: int, json_: bool) -> None:
    """List the latest runs, newest first.

    \b
    Examples:
      dropmill runs
      dropmill runs --limit 100 --json
    """
    from dropmill_cli import runs as all_runs
    from dropmill_cli.stack import connect

    connect(place)
    lines = all_runs.list_runs(limit)
    if json_:
        _print_json([line.model_dump(mode="json") for line in lines])
        return
    from dropmill_cli import show as pages

    if not lines:
        click.echo("no runs yet; start one with: dropmill drop FILE --recipe NAME")
        return
    pages.console().print(pages.runs_table(lines))


@main.command(short_help="Show a run: states, metrics, leases, reason.")
@click.argument("run_id", metavar="RUN")
@somewhere
@as_json
def show(place: Place, run_id: str, json_: bool) -> None:
    """Show RUN: its states, metrics, leases, and the whole reason if it failed.

    \b
    Examples:
      dropmill show kmeans-0123456789ab
      dropmill show kmeans-0123456789ab --json
    """
    from dropmill_cli import runs as all_runs
    from dropmill_cli import watch
    from dropmill_cli.stack import connect

    all_runs.check_run_id(run_id)
    stack = connect(place)
    run = all_runs.find_run(stack, run_id)
    document = all_runs.describe(run)
    if stack.embedded:
        document = all_runs.at_home(document, f"dropmill logs {run_id}")
    if json_:
        _print_json(document.in_full())
        return
    from rich.text import Text

    from dropmill_cli import show as pages

    out = pages.console()
    progress = watch.look(run.execution_arn) if run.execution_arn else None
    for piece in pages.run_page(document, all_runs.read_metrics(run_id), progress, log=_log_tail(document)):
        out.print(piece, soft_wrap=isinstance(piece, Text))


@main.command(short_help="Print the log of a run's job and endpoint.")
@click.argument("run_id", metavar="RUN")
@click.option("--tail", type=click.IntRange(1, 10_000), metavar="N", help="Only the latest N lines of each.")
@somewhere
@as_json
def logs(place: Place, run_id: str, tail: int | None, json_: bool) -> None:
    """Print the log lines of RUN's training job and endpoint, as CloudWatch Logs has them.

    \b
    Examples:
      dropmill logs kmeans-0123456789ab
      dropmill logs kmeans-0123456789ab --tail 50
      dropmill logs kmeans-0123456789ab --json
    """
    from dropmill_cli import logs as all_logs
    from dropmill_cli import runs as all_runs
    from dropmill_cli.show import clean, moment_text
    from dropmill_cli.stack import connect

    all_runs.check_run_id(run_id)
    stack = connect(place)
    leases = all_runs.describe(all_runs.find_run(stack, run_id)).leases
    found = (line for lease in leases for line in (all_logs.tail_of(lease, tail) if tail else all_logs.lines_of(lease)))
    if json_:
        _print_json([line.model_dump(mode="json") for line in found])
        return
    resource = ""
    for line in found:
        if line.resource != resource:
            resource = line.resource
            click.echo(f"{clean(resource)}:")
        click.echo(f"{moment_text(line.at)}  {clean(line.text)}".rstrip())
    if not resource:
        click.echo(f"run {run_id} has written no log; `dropmill show {run_id}` tells how it went", err=True)


@main.command(short_help="Run a run again, with the same inputs.")
@click.argument("run_id", metavar="RUN")
@click.option("--wait", is_flag=True, help="Follow the new run to its end.")
@report_folder
@somewhere
@as_json
def rerun(place: Place, run_id: str, wait: bool, output: Path, json_: bool) -> None:
    """Run RUN again: the same versions of drop and recipe, as a new run RUN-2, RUN-3, ...

    \b
    Examples:
      dropmill rerun kmeans-0123456789ab
      dropmill rerun kmeans-0123456789ab --wait
    """
    from dropmill_cli import runs as all_runs
    from dropmill_cli import watch
    from dropmill_cli.stack import connect

    all_runs.check_run_id(run_id)
    if wait:
        all_runs.check_output(output)
    stack = connect(place)
    run = all_runs.find_run(stack, run_id)
    started = watch.now()
    name = all_runs.rerun(stack, run)
    if wait:
        _say(f"run {name}", json_)
        _end_with(_wait(stack, name, started, output, json_))
    elif json_:
        _print_json({"run_id": name, "rerun_of": run_id})
    else:
        click.echo(f"run {name}; follow it with: dropmill show {name}")


@main.command(short_help="Score what is new under scoring/.")
@click.argument("recipe")
@click.option("--wait", is_flag=True, help="Follow the batch to its end.")
@somewhere
@as_json
def score(place: Place, recipe: str, wait: bool, json_: bool) -> None:
    """Score what is new under scoring/RECIPE/ with the recipe's champion, now rather than on schedule.

    Predictions land under predictions/RECIPE/, beside a manifest that says which model made them. What has been scored
    before is not scored again.

    \b
    Examples:
      dropmill score kmeans
      dropmill score kmeans --wait
      dropmill score kmeans --wait --json
    """
    from dropmill_cli import batches, watch
    from dropmill_cli.stack import connect

    stack = connect(place)
    started = watch.now()
    batch = batches.start(stack, recipe)
    if wait:
        _say(f"batch {batch.batch}", json_)
        _end_with(_wait(stack, batch.batch, started, Path(), json_))
    elif json_:
        _print_json({"run_id": batch.batch, "recipe": batch.recipe, "started": batch.started})
    else:
        click.echo(f"batch {batch.batch}; follow it with: dropmill show {batch.batch}")


@main.group(short_help="Bring a champion's endpoint up and down.")
def endpoint() -> None:
    """Bring a recipe's champion up as an endpoint for a while, with no training, and down again.

    \b
    Examples:
      dropmill endpoint up kmeans --for 2h
      dropmill endpoint down kmeans
    """


@endpoint.command("up", short_help="Serve a recipe's champion for a while.")
@click.argument("recipe")
@click.option("--for", "length", required=True, metavar="TIME", help="How long: 30m, 2h, 1d; at most 7d.")
@somewhere
@as_json
def endpoint_up(place: Place, recipe: str, length: str, json_: bool) -> None:
    """Serve RECIPE's champion for a while; it is taken down when its time is over, or with `dropmill endpoint down`.

    Waits until the endpoint is in service. Ctrl-C before that takes it down. An endpoint costs money for as long as it
    is up.

    \b
    Examples:
      dropmill endpoint up kmeans --for 2h
      dropmill endpoint up kmeans --for 30m --json
    """
    from dropmill_cli import endpoints
    from dropmill_cli.show import moment_text
    from dropmill_cli.stack import connect

    seconds = endpoints.seconds_of(length)
    stack = connect(place)
    _end_on_signals()
    up = endpoints.bring_up(recipe, seconds, lambda text: _say(text, json_), pause=0.2 if stack.embedded else 5)
    if json_:
        _print_json(up.model_dump(mode="json"))
        return
    click.echo(f"endpoint {up.endpoint} is in service until {moment_text(up.until)}")
    click.echo(f"it serves {up.model_package}, which {up.trained_by} trained")
    click.echo(f"it takes {', '.join(up.content_types)}\ntake it down with: dropmill endpoint down {recipe}")


@endpoint.command("down", short_help="Take a recipe's endpoint down.")
@click.argument("recipe")
@somewhere
@as_json
def endpoint_down(place: Place, recipe: str, json_: bool) -> None:
    """Take down every endpoint of RECIPE that `dropmill endpoint up` brought up, with its configuration and model.

    \b
    Examples:
      dropmill endpoint down kmeans
    """
    from dropmill_cli import endpoints
    from dropmill_cli.stack import connect

    stack = connect(place)
    down = endpoints.bring_down(recipe, lambda text: _say(text, json_), pause=0.2 if stack.embedded else 5)
    if json_:
        _print_json(down.model_dump(mode="json"))
    elif not down.leaving:
        click.echo(f"gone: {', '.join(down.endpoints) or 'what was to become an endpoint'}")


@main.command(short_help="List registered models, and which is in use.")
@click.argument("recipe", required=False)
@click.option("--limit", default=10, show_default=True, type=click.IntRange(1, 1000), help="How many of each recipe.")
@somewhere
@as_json
def models(place: Place, recipe: str | None, limit: int, json_: bool) -> None:
    """List the registered models of RECIPE, or of all recipes, newest first; the champion is the one in use.

    \b
    Examples:
      dropmill models
      dropmill models kmeans --limit 3
      dropmill models kmeans --json
    """
    from dropmill_cli import models as all_models
    from dropmill_cli.stack import connect

    lines = all_models.list_models(connect(place), recipe, limit)
    if json_:
        _print_json([line.model_dump(mode="json") for line in lines])
        return
    from dropmill_cli import show as pages

    if not lines:
        click.echo("no models yet; a run that succeeds registers its own")
        return
    pages.console().print(pages.models_table(lines))


@main.command(short_help="Approve a model, which makes it the champion.")
@click.argument("model", metavar="RUN-or-PACKAGE")
@click.option("--reason", default="approved with dropmill approve", help="Kept with the model package.")
@somewhere
@as_json
def approve(place: Place, model: str, reason: str, json_: bool) -> None:
    """Approve the model of a run, or a model package by its ARN: from now on it is its recipe's champion.

    Works for a model that waits, for one that was rejected, and for a former champion.

    \b
    Examples:
      dropmill approve kmeans-0123456789ab
      dropmill approve kmeans-0123456789ab --reason "looked at the clusters"
      dropmill approve arn:aws:sagemaker:eu-west-1:123456789012:model-package/dropmill-kmeans/3 --stack dropmill
    """
    _decide(place, model, "Approved", reason, json_)


@main.command(short_help="Reject a model; a champion is one no more.")
@click.argument("model", metavar="RUN-or-PACKAGE")
@click.option("--reason", default="rejected with dropmill reject", help="Kept with the model package.")
@somewhere
@as_json
def reject(place: Place, model: str, reason: str, json_: bool) -> None:
    """Reject the model of a run, or a model package by its ARN. If it is the champion, its recipe has none from now on.

    \b
    Examples:
      dropmill reject kmeans-0123456789ab
      dropmill reject kmeans-0123456789ab --json
    """
    _decide(place, model, "Rejected", reason, json_)


@main.command(short_help="Check an account or a cloud before the first drop.")
@click.argument("recipes", metavar="[RECIPE]...", nargs=-1)
@somewhere
@as_json
def doctor(place: Place, recipes: tuple[str, ...], json_: bool) -> None:
    """Check everything that a drop needs: credentials, stack, permissions, quotas, images, rules, notifications.

    Each RECIPE, by name or file, is read as a run would read it, and the account's quotas are held against what it
    needs; without one, all those in the drop bucket. Nothing is changed. Exit code 1 if something would make runs fail.

    \b
    Examples:
      dropmill doctor
      dropmill doctor kmeans zeros.yaml
      dropmill doctor --stack dropmill --region eu-west-1 --json
    """
    from dropmill_cli import doctor as checks
    from dropmill_cli import drops

    document = checks.examine(place, [drops.choose_recipe(recipe) for recipe in recipes])
    if json_:
        _print_json(document.model_dump(mode="json"))
    else:
        from dropmill_cli.show import clean

        for check in document.checks:
            click.echo(clean(f"{check.status.value:<8} {check.name:<14} {check.found}"))
            if check.advice is not None:
                click.echo(clean(f"{'':<24}{check.advice}"))
    if not document.ok:
        click.get_current_context().exit(RUN_FAILED)


@main.command(short_help="Take the stack away, and all that it holds.")
@click.option("--dry-run", is_flag=True, help="Only list what would go.")
@click.option("--yes", is_flag=True, help="Don't ask for the stack's name.")
@click.option("--models", is_flag=True, help="Delete the model package groups too.")
@somewhere
@as_json
def remove(place: Place, dry_run: bool, yes: bool, models: bool, json_: bool) -> None:
    """Take the stack away with everything in it: running jobs and endpoints, drops, models, reports, logs, ledger.

    Runs are stopped and endpoints deleted first, then the stack, then the buckets and the table that CloudFormation
    keeps. Interrupted, it goes on where it was when it is run again, also when the stack itself has gone.

    \b
    Examples:
      dropmill remove --dry-run
      dropmill remove --dry-run --models --json
      dropmill remove --stack dropmill --region eu-west-1 --models --yes
    """
    from dropmill_cli import removal

    if json_ and not yes and not dry_run:
        raise CommandError("with --json there is nobody to ask; give --yes, or --dry-run")
    remains = removal.find(place, models=models)
    if dry_run:
        document = removal.plan(remains, models=models)
    else:
        _confirm_removal(place.stack, yes=yes)
        _end_on_signals()
        pause = 0.2 if place.url is not None else 10
        document = removal.remove(remains, lambda text: _say(text, json_), models=models, pause=pause)
    if json_:
        _print_json(document.model_dump(mode="json"))
        return
    for item in document.removed:
        click.echo(f"{'would go' if dry_run else 'gone'}: {item.kind} {item.name}{_note(item.note)}")
    for item in document.left:
        click.echo(f"stays: {item.kind} {item.name}{_note(item.note)}")
    if not dry_run:
        click.echo(f"nothing else of {place.stack} is left")


def _note(note: str | None) -> str:
    return f" ({note})" if note else ""


def _confirm_removal(stack: str, *, yes: bool) -> None:
    if yes:
        return
    click.echo(f"This deletes {stack} with every drop, model, prediction and report in it. There is no way back.")
    if click.prompt("Type the stack's name to go on", default="", show_default=False) != stack:
        raise CommandError("that is not the stack's name; nothing was removed")


def _decide(place: Place, model: str, approval: "Approval", reason: str, json_: bool) -> None:
    from dropmill_cli import models as all_models
    from dropmill_cli.stack import connect

    decided = all_models.decide(connect(place), model, approval, reason)
    if json_:
        _print_json(decided.model_dump(mode="json"))
        return
    champion = decided.champion
    if champion is None:
        state = f"{decided.recipe} has no champion"
    elif champion.package == decided.package:
        state = f"it is the champion of {decided.recipe}"
    else:
        state = f"the champion of {decided.recipe} is the model of {champion.run_id}"
    click.echo(f"{approval.lower()} {decided.package}\n{state}")


def _drop_and_wait(
    stack: Stack, file: Path, choice: "RecipeChoice", output: Path, json_: bool, *, outlives: bool = True
) -> "RunDocument":
    from dropmill_cli import drops, watch

    started = watch.now()
    dropped = drops.drop(stack, file, choice)
    _say(f"dropped {dropped.uri} ({dropped.size:,} bytes)\nrun {dropped.run_id}", json_)
    return _wait(stack, dropped.run_id, started, output, json_, outlives=outlives)


def _wait(
    stack: Stack, run_id: str, started: "datetime", output: Path, json_: bool, *, outlives: bool = True
) -> "RunDocument":
    """Follow a run to its end, fetch its report, and print how it went; `outlives`: the cloud stays after a Ctrl-C."""
    from rich.text import Text

    from dropmill.runs import execution_arn
    from dropmill_cli import runs as all_runs
    from dropmill_cli import show as pages
    from dropmill_cli import watch

    screen = pages.Screen(pages.console(sys.stderr if json_ else sys.stdout), started)
    try:
        with screen.shown():
            progress = watch.follow(
                execution_arn(_machine_of(stack, run_id), run_id), screen.show, pause=0.2 if stack.embedded else 2
            )
        if not all_runs.wait_for_record(run_id):
            _say("the run's record or a lease is not closed yet; the sweeper finishes it within minutes", json_)
    except KeyboardInterrupt:
        if outlives:
            _say(f"run {run_id} goes on; see it with: dropmill show {run_id}", json_)
        raise
    document = all_runs.describe(all_runs.find_run(stack, run_id))
    if stack.embedded:
        document = all_runs.at_home(document, f"dropmill logs {run_id}" if outlives else "its last lines are below")
    report = all_runs.save_report(run_id, output)
    document = document.model_copy(
        update={
            "status": progress.status,
            "seconds": round(((progress.ended or watch.now()) - started).total_seconds(), 2),
            "report": str(report) if report else None,
        }
    )
    if json_:
        _print_json(document.in_full())
    else:
        out = pages.console()
        for piece in pages.results(document, all_runs.read_metrics(run_id), log=_log_tail(document)):
            out.print(piece, soft_wrap=isinstance(piece, Text))
    return document


def _machine_of(stack: Stack, run_id: str) -> str:
    """The state machine that a run is, or will be, an execution of."""
    from dropmill import ledger
    from dropmill.contracts import RunKind

    run = ledger.find_run(run_id)
    scoring = run is not None and run.kind is RunKind.SCORING
    return stack.scoring_machine_arn if scoring else stack.state_machine_arn


def _log_tail(document: "RunDocument") -> "list[LogLine]":
    """The latest log lines of the job or endpoint that a run failed by; none where they can't be read."""
    from botocore.exceptions import BotoCoreError, ClientError

    from dropmill_cli import logs as all_logs

    lease = all_logs.failed_lease(document.error, document.leases)
    if lease is None:
        return []
    try:
        return all_logs.tail_of(lease, all_logs.TAIL_LINES)
    except (BotoCoreError, ClientError):
        # Who may look at runs need not be allowed to read logs.
        return []


def _end_with(document: "RunDocument") -> None:
    if document.status.value != "SUCCEEDED":
        click.get_current_context().exit(RUN_FAILED)


def _end_on_signals() -> None:
    """Let SIGTERM and a closed terminal end the command as Ctrl-C does, so that what it started is ended too."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    for number in _ending_signals():
        signal.signal(number, end)


def _ending_signals() -> list[signal.Signals]:
    hang_up_counts = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN  # it doesn't under nohup
    return [signal.SIGTERM, *([signal.SIGHUP] if hang_up_counts else [])]


def _say(text: str, json_: bool) -> None:
    """A line on how it goes; with --json standard output belongs to the document."""
    click.echo(text, err=json_)


def _print_json(document: Any) -> None:
    import json

    click.echo(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
