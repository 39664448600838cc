"""What a chaos run does to the application: scenarios, each chosen by the seed and its number alone."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from localaws.faults import FaultRule

Kind = Literal[
    "train", "transform", "tune", "keep", "contest", "score", "refuse", "folder", "versions", "recipe-missing"
]

WEIGHTS: Final[Mapping[Kind, int]] = {
    "train": 6,
    "transform": 4,
    "tune": 2,
    "keep": 3,
    "contest": 4,
    "score": 6,
    "refuse": 2,
    "folder": 2,
    "versions": 3,
    "recipe-missing": 1,
}
RUNS: Final[Mapping[Kind, int]] = {
    "train": 1,
    "transform": 1,
    "tune": 1,
    "keep": 1,
    "contest": 3,
    "score": 4,
    "refuse": 2,
    "folder": 1,
    "versions": 2,
    "recipe-missing": 1,
}
"""How many executions a scenario of a kind asks for."""

KEPT_SECONDS: Final = 600
ROWS: Final = 90

_HYPERPARAMETERS: Final = {
    "kmeans": "{k: 3}",
    "linear-learner": "{predictor_type: multiclass_classifier, epochs: 2, num_models: 1}",
    "factorization-machines": "{predictor_type: binary_classifier, num_factors: 2, epochs: 2}",
    "knn": "{k: 3}",
}
_TUNING: Final = """
tuning:
  objective: validation:multiclass_accuracy
  strategy: Random
  max_jobs: 2
  max_parallel_jobs: 2
  ranges:
    learning_rate: {continuous: [0.001, 0.1], scale: Logarithmic}
"""


@dataclass(frozen=True)
class Scenario:
    """One user's doings. `rules` are in force from `faults_from` on: the first drop, or the first batch."""

    seed: int
    number: int
    kind: Kind
    algorithm: str
    recipe_text: str
    classes: int
    rules: tuple[FaultRule, ...]
    abort_after: int | None
    """The execution is aborted when its scenario has made so many calls; None: it is not."""
    hangs: bool
    more: Mapping[str, int] = field(default_factory=dict)

    @property
    def recipe(self) -> str:
        """Unlike any other text in the cloud, so that whatever holds it belongs to this scenario."""
        return f"s{self.number:04}"

    @property
    def runs(self) -> int:
        return RUNS[self.kind]


def choose(seed: int, number: int) -> Scenario:
    """The scenario of this number."""
    chance = random.Random(f"{seed}/{number}")
    (kind,) = chance.choices([*WEIGHTS], [*WEIGHTS.values()])
    algorithm = "linear-learner" if kind == "tune" else chance.choice([*_HYPERPARAMETERS])
    about = f"s{number:04}"
    rules = tuple(_rules(chance, about, kind))
    return Scenario(
        seed=seed,
        number=number,
        kind=kind,
        algorithm=algorithm,
        recipe_text=_recipe(kind, algorithm, chance),
        classes=2 if algorithm == "factorization-machines" else 3,
        rules=rules,
        abort_after=chance.randrange(3, 160) if chance.random() < 0.12 else None,
        hangs=any(rule.effect == "hang" and rule.seconds is None for rule in rules),
        more={"files": chance.randrange(1, 5), "broken": chance.randrange(0, 2)},
    )


def several(seed: int, runs: int) -> list[Scenario]:
    """The first scenarios of a seed that together ask for so many runs."""
    found: list[Scenario] = []
    while sum(one.runs for one in found) < runs:
        found.append(choose(seed, len(found)))
    return found


def _recipe(kind: Kind, algorithm: str, chance: random.Random) -> str:
    lines = [
        f"algorithm: {algorithm}",
        f"hyperparameters: {_HYPERPARAMETERS[algorithm]}",
        "training: {max_runtime: 10m}",
    ]
    if kind == "score":
        lines.append("data: {id: name}")
        lines.append(f"scoring: {{format: {chance.choice(['csv', 'parquet'])}}}")
    if kind == "transform" or (kind == "contest" and chance.random() < 0.3):
        lines.append("evaluation: {with: transform}")
    if kind == "keep":
        lines.append(f"evaluation: {{keep_endpoint: {KEPT_SECONDS}s}}")
    if kind == "contest":
        lines.append("gates: {msd: '<= 1000'}" if algorithm == "kmeans" else "gates: {accuracy: '>= 0.1'}")
        lines.append("champion: {margin: 0}")
    elif kind != "score" and chance.random() < 0.2:
        lines.append("approval: manual")
    text = "\n".join([*lines, ""])
    if kind == "tune":
        text = text.replace("training: {max_runtime: 10m}", "training: {max_runtime: 10m}" + _TUNING.rstrip())
    return text


_CALLS: Final = (
    # What is called often comes first, and is harmed more often.
    ("dynamodb:UpdateItem", 8),
    ("dynamodb:GetItem", 5),
    ("dynamodb:Query", 5),
    ("dynamodb:TransactWriteItems", 5),
    ("dynamodb:PutItem", 3),
    ("dynamodb:DeleteItem", 2),
    ("dynamodb:BatchGetItem", 1),
    ("dynamodb:*", 3),
    ("s3:PutObject", 4),
    ("s3:GetObject", 5),
    ("s3:UploadPart", 3),
    ("s3:CreateMultipartUpload", 2),
    ("s3:CompleteMultipartUpload", 4),
    ("s3:ListObject*", 2),
    ("s3:*", 3),
    ("sagemaker:Create*", 8),
    ("sagemaker:CreateTrainingJob", 3),
    ("sagemaker:CreateEndpoint", 3),
    ("sagemaker:CreateTransformJob", 3),
    ("sagemaker:CreateModelPackage*", 2),
    ("sagemaker:UpdateModelPackage", 2),
    ("sagemaker:Describe*", 6),
    ("sagemaker:Delete*", 4),
    ("sagemaker:InvokeEndpoint", 2),
    ("sagemaker:*", 3),
    ("states:SendTask*", 5),
    ("states:StartExecution", 3),
    ("states:DescribeExecution", 3),
    ("events:PutEvents", 2),
    ("sns:Publish", 3),
    ("lambda:Invoke", 4),
)
_CALL_EFFECTS: Final = (("throttle", 4), ("fail", 4), ("delay", 1), ("timeout", 1), ("lose-answer", 4), ("kill", 4))
_FUNCTIONS: Final = (
    "StartRun",
    "InspectDrop",
    "ConvertShard",
    "SealDataset",
    "LaunchTraining",
    "LaunchTransform",
    "CreateModel",
    "DeployEndpoint",
    "EvaluateModel",
    "TearDown",
    "JudgeModel",
    "RegisterModel",
    "ResumeTask",
    "CloseRun",
    "ClaimFiles",
    "ConvertRows",
    "SealBatch",
    "PublishPredictions",
)
_ASYNCHRONOUS: Final = ("StartRun", "ResumeTask", "CloseRun", "FollowApproval")
_BEST_EFFORT: Final = (
    "SageMaker * State Change",
    "Step Functions Execution Status Change",
    "Dropmill Lease Look Again",
)
"""Events that may never come. S3 promises to deliver its own at least once."""


def _weighted(chance: random.Random, choices: Sequence[tuple[str, int]]) -> str:
    (found,) = chance.choices([name for name, _ in choices], [weight for _, weight in choices])
    return found


def _rules(chance: random.Random, about: str, kind: Kind) -> list[FaultRule]:
    makers = {
        "call": (_call, 10),
        "function": (_function, 3),
        "duplicate": (_duplicate, 2),
        "event": (_event, 4),
        "job": (_job, 3),
    }
    count = chance.choices([0, 1, 2, 3, 4, 5], [1, 5, 5, 4, 3, 2])[0]
    rules = []
    for _ in range(count):
        (name,) = chance.choices([*makers], [weight for _, weight in makers.values()])
        rules.append(makers[name][0](chance, about))
    return rules


def _call(chance: random.Random, about: str) -> FaultRule:
    call, effect = _weighted(chance, _CALLS), _weighted(chance, _CALL_EFFECTS)
    if call == "lambda:Invoke" and effect in ("kill", "lose-answer", "timeout"):
        effect = "throttle"
    # A client tries five times, so that fewer in a row are mended by it, and more become the function's failure.
    times = {"throttle": 7, "fail": 7, "lose-answer": 2}.get(effect, 1)
    return FaultRule.model_validate(
        {
            "call": call,
            "effect": effect,
            "about": about,
            "skip": chance.choice([0, 0, 0, 1, 2, 3, 5, 8, 13]),
            "times": chance.randint(1, times),
            **({"seconds": round(chance.uniform(0.1, 1.5), 2)} if effect in ("delay", "timeout") else {}),
            **({"before": chance.random() < 0.4} if effect == "kill" else {}),
            # The state machine's and EventBridge's own calls are to functions alone.
            **({} if call == "lambda:Invoke" else {"caller": "lambda:*"}),
        }
    )


def _function(chance: random.Random, about: str) -> FaultRule:
    return FaultRule(
        function=f"*-{chance.choice(_FUNCTIONS)}Function",
        effect="kill",
        about=about,
        skip=chance.choice([0, 0, 1]),
        times=1,
        seconds=round(chance.uniform(0, 0.4), 3),
    )


def _duplicate(chance: random.Random, about: str) -> FaultRule:
    return FaultRule(
        function=f"*-{chance.choice(_ASYNCHRONOUS)}Function", effect="repeat", about=about, times=chance.randint(1, 4)
    )


def _event(chance: random.Random, about: str) -> FaultRule:
    effect = chance.choice(["drop", "drop", "repeat", "delay", "reorder"])
    event = chance.choice(_BEST_EFFORT) if effect == "drop" else chance.choice([*_BEST_EFFORT, "Object Created", "*"])
    return FaultRule.model_validate(
        {
            "event": event,
            "effect": effect,
            "about": about,
            "skip": chance.choice([0, 0, 1, 2]),
            "times": chance.randint(1, 6),
            **({"seconds": round(chance.uniform(0.1, 2.0), 2)} if effect in ("delay", "reorder") else {}),
        }
    )


def _job(chance: random.Random, about: str) -> FaultRule:
    job = chance.choice(["training", "transform", "endpoint"])
    effects = ["capacity", "capacity", "fail", "hang"] + ([] if job == "endpoint" else ["stop"])
    effect = chance.choice(effects)
    for_ever = effect == "hang" and job != "endpoint" and chance.random() < 0.3
    return FaultRule.model_validate(
        {
            "job": job,
            "effect": effect,
            "about": about,
            "skip": chance.choice([0, 0, 0, 1]),
            "times": chance.randint(1, 2),
            **({} if for_ever or effect != "hang" else {"seconds": round(chance.uniform(0.5, 3), 2)}),
        }
    )
