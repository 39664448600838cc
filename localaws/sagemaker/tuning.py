"""Tuning jobs: training jobs of their own, chosen by a strategy, judged by the metric that their logs show."""

import logging
import math
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from localaws.sagemaker.errors import ResourceInUse, ValidationException
from localaws.sagemaker.jobs import TrainingJobs, check_request
from localaws.sagemaker.programs import Programs, repository
from localaws.sagemaker.resources import Document, Resource, Store, arn, now, page_of, tag_map
from localaws.sagemaker.search import (
    Bayesian,
    Grid,
    Judged,
    Random,
    Strategy,
    Values,
    is_worse_than_median,
    read_ranges,
)

_log = logging.getLogger(__name__)

KIND = "hyper-parameter-tuning-job"
OBJECTIVE = "ObjectiveMetric"
"""The name under which SageMaker adds the objective to the metrics of a search's training jobs."""
OBJECTIVE_HYPERPARAMETER = "_tuning_objective_metric"
PARALLEL_LIMIT = 100
JOBS_LIMIT = 10_000
MEDIAN_OF = 3
"""Early stopping compares a job with no fewer than these others."""
_ENDED = ("Completed", "Failed", "Stopped")
_NOT_A_TRAINING_JOBS = (
    "DefinitionName",
    "TuningObjective",
    "HyperParameterRanges",
    "StaticHyperParameters",
    "HyperParameterTuningResourceConfig",
)
_RESOURCES = ("InstanceType", "InstanceCount", "VolumeSizeInGB", "VolumeKmsKeyId")
DEFAULT_VOLUME = 30
"""GB, where a search says nothing; what the SDK asks for."""


@dataclass(eq=False)
class _Trial:
    """One training job of a search. `curve` holds a loss for each line with the objective."""

    job: Resource
    values: Values
    curve: list[float] = field(default_factory=list)
    objective: str = "Pending"
    loss: float | None = None
    cut: bool = False


@dataclass(eq=False)
class _Search:
    """What goes on behind one tuning job. `sign` makes a loss of the objective: less is better."""

    job: Resource
    strategy: Strategy
    definition: Document
    metric: str
    sign: float
    most: int
    parallel: int
    deadline: float
    early: bool
    trials: dict[str, _Trial] = field(default_factory=dict)
    inbox: "queue.SimpleQueue[str]" = field(default_factory=queue.SimpleQueue)
    stopping: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def running(self) -> list[_Trial]:
        return [trial for trial in self.trials.values() if trial.objective == "Pending"]


class TuningJobs:
    """The hyperparameter tuning operations; methods named like them take a checked request and return its answer."""

    def __init__(self, store: Store, jobs: TrainingJobs, programs: Programs) -> None:
        self._store = store
        self._jobs = jobs
        self._programs = programs
        self._searches: dict[str, _Search] = {}
        self._closed = False

    def create(self, region: str, request: Document) -> Document:
        """CreateHyperParameterTuningJob. Raises ValidationException, ResourceInUse."""
        search = self._search(region, request)
        job = search.job
        with self._store.lock:
            if self._store.find(KIND, job.name, region):
                raise ResourceInUse(
                    "Hyperparameter tuning job names must be unique within an AWS account and region, and a job with "
                    f"this name already exists ({job.arn})"
                )
            if self._closed:
                raise ValidationException("The embedded SageMaker is ending.")
            self._store.add(job)
            self._searches[job.arn] = search
            search.thread = threading.Thread(
                target=self._run, args=(search,), name=f"tuning job {job.name}", daemon=True
            )
            search.thread.start()
        return {"HyperParameterTuningJobArn": job.arn}

    def describe(self, region: str, request: Document) -> Document:
        """DescribeHyperParameterTuningJob. Raises ValidationException for a job that doesn't exist."""
        return self._store.describe(self._find(region, request))

    def list_jobs(self, region: str, request: Document) -> Document:
        """ListHyperParameterTuningJobs."""

        def summary(document: Document) -> Document:
            members = ("Name", "Arn", "Status")
            shown = {f"HyperParameterTuningJob{one}": document[f"HyperParameterTuningJob{one}"] for one in members}
            for member in (
                "CreationTime",
                "LastModifiedTime",
                "HyperParameterTuningEndTime",
                "TrainingJobStatusCounters",
                "ObjectiveStatusCounters",
            ):
                if member in document:
                    shown[member] = document[member]
            configuration = document["HyperParameterTuningJobConfig"]
            return {**shown, "Strategy": configuration["Strategy"], "ResourceLimits": configuration["ResourceLimits"]}

        found, token = self._store.page(KIND, region, {"SortBy": "Name", **request}, summary)
        return {"HyperParameterTuningJobSummaries": found, **({"NextToken": token} if token else {})}

    def list_training_jobs(self, region: str, request: Document) -> Document:
        """ListTrainingJobsForHyperParameterTuningJob; sorted by the objective, it leaves out jobs that have none."""
        job = self._find(region, request)
        by = request.get("SortBy", "Name")
        keys: Mapping[str, Callable[[Document], Any]] = {
            "Name": lambda row: row["TrainingJobName"],
            "CreationTime": lambda row: row["CreationTime"],
            "Status": lambda row: row["TrainingJobStatus"],
            "FinalObjectiveMetricValue": lambda row: row.get("FinalHyperParameterTuningJobObjectiveMetric", {}).get(
                "Value"
            ),
        }
        with self._store.lock:
            search = self._searches[job.arn]
            shown = [self._summary(search, trial) for trial in search.trials.values()]
        rows = [
            (keys[by](row), row["TrainingJobArn"], row)
            for row in shown
            if request.get("StatusEquals") in (None, row["TrainingJobStatus"]) and keys[by](row) is not None
        ]
        found, token = page_of(rows, request, by=by, descending=request.get("SortOrder") == "Descending")
        return {"TrainingJobSummaries": found, **({"NextToken": token} if token else {})}

    def stop(self, region: str, request: Document) -> Document:
        """StopHyperParameterTuningJob; it returns at once. Raises ValidationException for a job that has ended."""
        job = self._find(region, request)
        with self._store.lock:
            status = job.document["HyperParameterTuningJobStatus"]
            if status not in ("InProgress", "Stopping"):
                raise ValidationException(
                    f"The request was rejected because the hyperparameter tuning job is in status {status}."
                )
            if status == "InProgress":
                self._move(job, "Stopping")
        self._halt(self._searches[job.arn])
        return {}

    def delete(self, region: str, request: Document) -> Document:
        """DeleteHyperParameterTuningJob. Raises ValidationException for a job that doesn't exist or still runs."""
        job = self._find(region, request)
        with self._store.lock:
            status = job.document["HyperParameterTuningJobStatus"]
            if status not in _ENDED:
                raise ValidationException(f"A hyperparameter tuning job in status {status} can't be deleted; stop it.")
            self._store.remove(job)
            self._searches.pop(job.arn, None)
        return {}

    def close(self) -> None:
        """Stop every search with its jobs and wait for the last to end."""
        with self._store.lock:
            self._closed = True
            searches = [*self._searches.values()]
        for search in searches:
            self._halt(search)
        for search in searches:
            if search.thread:
                search.thread.join(15)

    def _find(self, region: str, request: Document) -> Resource:
        job = self._store.find(KIND, request["HyperParameterTuningJobName"], region)
        if job is None:
            raise ValidationException(
                "Could not find the hyperparameter tuning job "
                f"{arn(KIND, request['HyperParameterTuningJobName'], region)!r}: requested resource not found."
            )
        return job

    def _search(self, region: str, request: Document) -> _Search:
        """Judge a request and return the search it asks for."""
        for member in ("WarmStartConfig", "TrainingJobDefinitions", "Autotune"):
            if member in request:
                raise _unsupported(member)
        if "TrainingJobDefinition" not in request:
            raise ValidationException("A hyperparameter tuning job needs a TrainingJobDefinition.")
        name, configuration = request["HyperParameterTuningJobName"], request["HyperParameterTuningJobConfig"]
        if configuration["Strategy"] == "Hyperband":
            raise _unsupported("The Hyperband strategy")
        for member in ("StrategyConfig", "TuningJobCompletionCriteria"):
            if member in configuration:
                raise _unsupported(member)
        for member in ("HyperParameterTuningJobObjective", "ParameterRanges"):
            if member not in configuration:
                raise ValidationException(f"HyperParameterTuningJobConfig needs {member}.")
        definition = self._definition(request["TrainingJobDefinition"], configuration)
        limits = configuration["ResourceLimits"]
        strategy, most = _strategy(configuration, definition)
        moment = now()
        document: Document = {
            "HyperParameterTuningJobName": name,
            "HyperParameterTuningJobArn": arn(KIND, name, region),
            "HyperParameterTuningJobConfig": {"TrainingJobEarlyStoppingType": "Off", **configuration},
            "TrainingJobDefinition": definition,
            "HyperParameterTuningJobStatus": "InProgress",
            "CreationTime": moment,
            "LastModifiedTime": moment,
            "TrainingJobStatusCounters": dict.fromkeys(
                ("Completed", "InProgress", "RetryableError", "NonRetryableError", "Stopped"), 0
            ),
            "ObjectiveStatusCounters": dict.fromkeys(("Succeeded", "Pending", "Failed"), 0),
        }
        objective = configuration["HyperParameterTuningJobObjective"]
        return _Search(
            job=Resource(KIND, name, region, document, tag_map(request.get("Tags", []))),
            strategy=strategy,
            definition=definition,
            metric=objective["MetricName"],
            sign=1.0 if objective["Type"] == "Minimize" else -1.0,
            most=most,
            parallel=limits["MaxParallelTrainingJobs"],
            deadline=time.monotonic() + limits.get("MaxRuntimeInSeconds", math.inf),
            early=configuration.get("TrainingJobEarlyStoppingType") == "Auto",
        )

    def _definition(self, asked: Mapping[str, Any], configuration: Mapping[str, Any]) -> Document:
        """Return the training job definition as describe shows it: the objective among metrics and hyperparameters."""
        for member in ("HyperParameterRanges", "TuningObjective"):
            if member in asked:
                raise _unsupported(f"{member} in a TrainingJobDefinition")
        specification = asked["AlgorithmSpecification"]
        if "TrainingImage" not in specification:
            raise _unsupported("AlgorithmSpecification without TrainingImage")
        objective = configuration["HyperParameterTuningJobObjective"]
        metric = objective["MetricName"]
        algorithm = repository(specification["TrainingImage"])
        metrics = {one["Name"]: one["Regex"] for one in specification.get("MetricDefinitions", [])}
        goals: Mapping[str, str] = {}
        try:
            metrics.update(self._programs.metrics(algorithm))
            goals = self._programs.goals(algorithm)
        except LookupError:
            # An image without a program: each of its training jobs will end saying so.
            metrics.setdefault(metric, "$^")
        choice = ", ".join(goals or metrics)
        if metric not in (goals or metrics):
            raise ValidationException(
                f"The objective metric for the hyperparameter tuning job, [{metric}], isn't valid for the "
                f"[{algorithm}] algorithm. Choose a valid objective metric: [{choice}]."
            )
        if goals and goals[metric] != objective["Type"]:
            raise ValidationException(
                f"The objective type for the hyperparameter tuning job, [{objective['Type']}], isn't valid for the "
                f"metric [{metric}]. Choose a valid objective type: [{goals[metric]}]."
            )
        static = {**asked.get("StaticHyperParameters", {}), OBJECTIVE_HYPERPARAMETER: metric}
        definitions = [*metrics.items(), (OBJECTIVE, metrics[metric])]
        definition = {
            **asked,
            "StaticHyperParameters": static,
            "AlgorithmSpecification": {
                **specification,
                "MetricDefinitions": [{"Name": name, "Regex": regex} for name, regex in definitions],
            },
        }
        for switch in ("EnableNetworkIsolation", "EnableInterContainerTrafficEncryption", "EnableManagedSpotTraining"):
            definition.setdefault(switch, False)
        check_request(_training_request(definition, "any", {}))
        return definition

    def _run(self, search: _Search) -> None:
        """Take one search from its first job to its end; the body of its thread."""
        try:
            self._work(search)
            status, reason = self._outcome(search)
        except Exception:  # noqa: BLE001 - whatever it is, the job must end, and Describe must say so
            _log.exception("tuning job %s met a bug of the embedded SageMaker", search.job.name)
            self._halt(search)
            status, reason = "Failed", "InternalServerError: We encountered an internal error. Please try again."
        if self._closed:
            return
        with self._store.lock:
            moment = now()
            self._move(
                search.job,
                status,
                HyperParameterTuningEndTime=moment,
                ConsumedResources={"RuntimeInSeconds": max(1, math.ceil(moment - search.job.document["CreationTime"]))},
                **({"FailureReason": reason[:1024]} if reason else {}),
            )

    def _work(self, search: _Search) -> None:
        """Start jobs as others end, until there are enough, or none may follow; wait for the last of them."""
        while True:
            while self._wants_more(search):
                # The strategy thinks outside of the lock; nothing else starts jobs of this search.
                self._start(search, search.strategy.suggest(self._so_far(search)))
            if not search.running():
                return
            left = search.deadline - time.monotonic()
            try:
                name = search.inbox.get(timeout=max(left, 0) if math.isfinite(left) else None)
            except queue.Empty:
                search.deadline = math.inf
                self._halt(search)
                continue
            if search.early and name in search.trials:
                self._cut_short(search, search.trials[name])

    def _wants_more(self, search: _Search) -> bool:
        with self._store.lock:
            return (
                not search.stopping.is_set()
                and len(search.trials) < search.most
                and len(search.running()) < search.parallel
            )

    def _so_far(self, search: _Search) -> list[Judged]:
        with self._store.lock:
            return [Judged(trial.values, trial.loss, trial.objective == "Failed") for trial in search.trials.values()]

    def _start(self, search: _Search, values: Values) -> None:
        with self._store.lock:
            if search.stopping.is_set():
                return
            name = f"{search.job.name}-{len(search.trials) + 1:03d}-{secrets.token_hex(4)}"
            job = self._jobs.start(
                search.job.region,
                _training_request(search.definition, name, values),
                tags=search.job.tags,
                tuning_job=search.job.arn,
                on_metric=lambda metric, value: self._hear(search, name, metric, value),
                on_end=lambda: self._end(search, name),
            )
            search.trials[name] = _Trial(job, values)
            self._count(search)

    def _hear(self, search: _Search, name: str, metric: str, value: float) -> None:
        """Take a value of a job's log; called from the thread that reads it."""
        if metric == OBJECTIVE and search.early:
            with self._store.lock:
                search.trials[name].curve.append(search.sign * value)
            search.inbox.put(name)

    def _end(self, search: _Search, name: str) -> None:
        """Judge a job that has ended; called from its thread."""
        with self._store.lock:
            trial = search.trials[name]
            value = _objective(trial.job.document)
            failed = trial.job.document["TrainingJobStatus"] == "Failed" or value is None
            trial.objective = "Failed" if failed else "Succeeded"
            trial.loss = None if failed or value is None else search.sign * value
            best = min(
                (one for one in search.trials.values() if one.loss is not None),
                key=lambda one: one.loss or 0.0,
                default=None,
            )
            if best:
                search.job.document["BestTrainingJob"] = self._summary(search, best)
            self._count(search)
        search.inbox.put("")

    def _cut_short(self, search: _Search, trial: _Trial) -> None:
        """Stop a job that does worse than the median of the others had done by then."""
        with self._store.lock:
            if trial.objective != "Pending" or trial.cut or not trial.curve:
                return
            others = [one.curve for one in search.trials.values() if one is not trial and one.objective == "Succeeded"]
            trial.cut = is_worse_than_median(trial.curve, others, MEDIAN_OF)
        if trial.cut:
            self._jobs.interrupt(trial.job)

    def _halt(self, search: _Search) -> None:
        """Start no more jobs and stop those that run; returns at once."""
        with self._store.lock:
            search.stopping.set()
            running = search.running()
        for trial in running:
            self._jobs.interrupt(trial.job)
        search.inbox.put("")

    def _outcome(self, search: _Search) -> tuple[str, str]:
        """Return a search's last status, and why it failed."""
        if search.stopping.is_set():
            return "Stopped", ""
        trials = [*search.trials.values()]
        if any(trial.objective == "Succeeded" for trial in trials):
            return "Completed", ""
        for trial in trials:
            if reason := trial.job.document.get("FailureReason"):
                return "Failed", (
                    "All training jobs failed. Please take a look at the training jobs failures to get more details; "
                    f"{trial.job.name}: {reason}"
                )
        return "Failed", (
            f"No objective metrics found after running {len(trials)} training jobs. Please ensure that the algorithm "
            f"is emitting the objective metric {search.metric}, and that the channel it is computed from is given."
        )

    def _count(self, search: _Search) -> None:
        counted = {
            "Completed": "Completed",
            "Failed": "NonRetryableError",
            "Stopped": "Stopped",
        }
        statuses: dict[str, int] = dict.fromkeys(search.job.document["TrainingJobStatusCounters"], 0)
        objectives: dict[str, int] = dict.fromkeys(search.job.document["ObjectiveStatusCounters"], 0)
        for trial in search.trials.values():
            statuses[counted.get(trial.job.document["TrainingJobStatus"], "InProgress")] += 1
            objectives[trial.objective] += 1
        search.job.document.update(
            TrainingJobStatusCounters=statuses, ObjectiveStatusCounters=objectives, LastModifiedTime=now()
        )

    def _summary(self, search: _Search, trial: _Trial) -> Document:
        document = trial.job.document
        members = (
            "TrainingJobName",
            "TrainingJobArn",
            "CreationTime",
            "TrainingStartTime",
            "TrainingEndTime",
            "TrainingJobStatus",
            "FailureReason",
        )
        summary = {
            **{member: document[member] for member in members if member in document},
            "TunedHyperParameters": dict(trial.values),
            "ObjectiveStatus": trial.objective,
        }
        if trial.loss is not None:
            summary["FinalHyperParameterTuningJobObjectiveMetric"] = {
                "Type": "Minimize" if search.sign > 0 else "Maximize",
                "MetricName": search.metric,
                "Value": search.sign * trial.loss,
            }
        return summary

    def _move(self, job: Resource, status: str, **more: Any) -> None:
        with self._store.lock:
            job.document.update(more, HyperParameterTuningJobStatus=status, LastModifiedTime=now())
            self._store.announce(job)


def _objective(document: Mapping[str, Any]) -> float | None:
    for one in document.get("FinalMetricDataList", []):
        if one["MetricName"] == OBJECTIVE:
            return float(one["Value"])
    return None


def _strategy(configuration: Mapping[str, Any], definition: Mapping[str, Any]) -> tuple[Strategy, int]:
    """Return a search's strategy and how many jobs it starts at most. Raises ValidationException."""
    ranges = read_ranges(configuration["ParameterRanges"])
    for one in ranges:
        if one.name in definition["StaticHyperParameters"]:
            raise ValidationException(
                f"The hyperparameter {one.name!r} is both static and in the ranges to search; keep one of the two."
            )
    limits = configuration["ResourceLimits"]
    most, parallel = limits.get("MaxNumberOfTrainingJobs"), limits["MaxParallelTrainingJobs"]
    if parallel > PARALLEL_LIMIT or (most or 0) > JOBS_LIMIT:
        raise ValidationException(
            f"A hyperparameter tuning job runs at most {PARALLEL_LIMIT} training jobs at once and {JOBS_LIMIT} in all."
        )
    if configuration["Strategy"] == "Grid":
        grid = Grid(ranges)
        if most is not None and most != grid.at_most:
            raise ValidationException(
                f"MaxNumberOfTrainingJobs must be the number of combinations, {grid.at_most}, or be left out."
            )
        return grid, grid.at_most or 0
    if most is None:
        raise ValidationException("ResourceLimits needs MaxNumberOfTrainingJobs for this strategy.")
    if parallel > most:
        raise ValidationException("MaxParallelTrainingJobs must not be larger than MaxNumberOfTrainingJobs.")
    seed = configuration.get("RandomSeed", secrets.randbits(31))
    if configuration["Strategy"] == "Random":
        return Random(ranges, seed), most
    # A first look around before the surrogate knows anything: a few points for each dimension, half the jobs at most.
    return Bayesian(ranges, seed, max(2, min(2 * len(ranges) + 1, most // 2))), most


def _training_request(definition: Mapping[str, Any], name: str, values: Values) -> Document:
    """Return the CreateTrainingJob request of one job of a search."""
    request = {key: value for key, value in definition.items() if key not in _NOT_A_TRAINING_JOBS}
    return {
        **request,
        "TrainingJobName": name,
        "HyperParameters": {**definition["StaticHyperParameters"], **values},
        **_resources(definition),
    }


def _resources(definition: Mapping[str, Any]) -> Document:
    """Return what a training job takes for the search's own description of instances, which the SDK always sends.

    Of several kinds of instances, which SageMaker tries in this order, the first is the one that is had here.
    """
    asked = definition.get("HyperParameterTuningResourceConfig")
    if asked is None:
        return {}
    kept = {key: asked[key] for key in _RESOURCES if key in asked}
    return {
        "ResourceConfig": {"VolumeSizeInGB": DEFAULT_VOLUME, **kept, **next(iter(asked.get("InstanceConfigs", [])), {})}
    }


def _unsupported(what: str) -> ValidationException:
    return ValidationException(f"{what} is not supported by the embedded SageMaker.")
