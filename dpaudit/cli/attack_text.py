"""What `dpaudit attack` prints for people."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dpaudit.pipeline.attack_model import AttackReport
    from dpaudit.pipeline.exposure import GroupResult
    from dpaudit.records import AttackResult, RatePoint


def text_of(report: "AttackReport") -> str:
    """Return results, exposed records and checks as lines."""
    lines = [line for result in report.attacks for line in _result(result)]
    lines += _worst_of_each(report.groups)
    sure = sorted({record.index for record in report.exposed if record.discovered})
    if sure:
        lines.append(
            f"{len(sure)} members are found by name (false-discovery rate 10 %), the first: "
            + ", ".join(str(index) for index in sure[:10])
        )
    lines += [f"{check.status.value.upper()} {check.id}: {check.detail}" for check in report.checks]
    return "\n".join(lines)


def _result(result: "AttackResult") -> list[str]:
    if result.auc is None:
        return [f"{result.attack}: did not run: {result.reason}"]
    low, high = result.auc_ci or (result.auc, result.auc)
    ceiling = "" if result.auc_ceiling is None else f", at most {result.auc_ceiling:.4f} by the proven epsilon"
    head = f"{result.attack}: AUC {result.auc:.4f} [{low:.4f}, {high:.4f}]{ceiling}  ({result.threat_model})"
    return [head, *(f"    {_rate(point)}" for point in result.tpr_at_fpr)]


def _worst_of_each(groups: "tuple[GroupResult, ...]") -> list[str]:
    """Return one line for each grouping: the group with the largest lower limit, under any attack."""
    lines = []
    for grouping in dict.fromkeys(group.grouping for group in groups if group.group):
        own = [group for group in groups if group.grouping == grouping]
        judged = [(group.auc_ci[0], group.auc_ci[1], group) for group in own if group.auc_ci is not None]
        if not judged:
            lines.append(f"worst {grouping}: none has 10 members and 10 non-members")
            continue
        low, high, worst = max(judged, key=lambda limits: limits[0])
        lines.append(
            f"worst {grouping}: {worst.group} under {worst.attack}: AUC {worst.auc:.4f} [{low:.4f}, {high:.4f}], "
            f"{worst.n_member} members; {len({group.group for *_, group in judged})} judged, "
            f"{len({group.group for group in own if group.auc is None})} too small"
        )
    return lines


def _rate(point: "RatePoint") -> str:
    if point.tpr is None or point.ci is None:
        return f"TPR at FPR {point.fpr:.2%}: {point.reason}"
    ceiling = "" if point.ceiling is None else f", at most {point.ceiling:.2%}"
    return f"TPR at FPR {point.fpr:.2%}: {point.tpr:.2%} [{point.ci[0]:.2%}, {point.ci[1]:.2%}]{ceiling}"
