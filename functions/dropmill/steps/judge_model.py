"""Judge Model: the gates, and the champion on the same rows: approved, rejected, or waiting for a person."""

from datetime import UTC, datetime

from dropmill.contracts import Decision, JudgedModel, JudgeInput, Judgement, Metrics, Plan
from dropmill.errors import ChampionMoved
from dropmill.gates import CHAMPION_METRICS, check, judge_challenger
from dropmill.naming import metrics_key, plan_key, verdict_key
from dropmill.step import step
from dropmill.storage import read_document, write_document


def judge_model(request: JudgeInput) -> JudgedModel:
    """The verdict, which is written beside the metrics.

    Raises ChampionMoved where the metrics are of another evaluation: one that Lambda ran late has written over them.
    """
    plan = read_document(Plan, plan_key(request.run_id))
    metrics = read_document(Metrics, metrics_key(request.run_id))
    if metrics.champion_version not in (None, request.champion_version):
        raise ChampionMoved(f"the metrics of run {request.run_id} are of an evaluation against another champion")
    judgement = judge(request, plan, metrics)
    write_document(verdict_key(request.run_id), judgement)
    return JudgedModel(verdict=judgement.verdict, reasons=judgement.reasons)


def judge(request: JudgeInput, plan: Plan, metrics: Metrics) -> Judgement:
    """The verdict on a run's model by what its evaluation measured."""
    rule = plan.recipe.champion
    metric = rule.metric or CHAMPION_METRICS[plan.task]
    champion = metrics.champion if request.champion_version else None
    own = champion is not None and champion.run_id == request.run_id
    gates = check(plan.recipe.gates.listed, metrics.metrics)
    missed = [gate.words for gate in gates if not gate.passed]
    met = [gate.words for gate in gates if gate.passed]
    compared: list[str] = []
    beaten = True
    if champion is not None and not own:
        versus = judge_challenger(metric, metrics.metrics, champion.metrics, rule.margin)
        compared, beaten = [versus.words], versus.passed
    if own:
        verdict, reasons = Decision.APPROVED, ["it is the champion already: a person approved it", *met, *missed]
    elif missed or not beaten:
        verdict, reasons = Decision.REJECTED, [*missed, *compared, *met]
    elif request.champion_version and champion is None:
        why = metrics.incomparable or "it was not asked about the same rows"
        reason = f"a person decides, because it can't be compared with the champion: {why}"
        verdict, reasons = Decision.WAITING, [reason, *met]
    elif plan.recipe.approval == "manual":
        reason = "a person decides, as the recipe says (approval: manual)"
        verdict, reasons = Decision.WAITING, [reason, *(compared or ["there is no champion to beat"]), *met]
    else:
        verdict, reasons = Decision.APPROVED, [*(compared or ["there is no champion to beat"]), *met]
    return Judgement(
        run_id=request.run_id,
        round=request.round,
        verdict=verdict,
        reasons=reasons,
        champion_version=request.champion_version,
        champion=champion.package if champion else None,
        champion_run=champion.run_id if champion else None,
        metric=metric,
        margin=rule.margin,
        judged_at=datetime.now(UTC),
    )


handler = step(judge_model)
