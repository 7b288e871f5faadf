"""Calibration to something other than epsilon: mu of Gaussian differential privacy, or a ceiling on an attack."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from dpaudit import _validate
from dpaudit.accounting._root import MARGIN, Search
from dpaudit.accounting._source import as_relation
from dpaudit.accounting.bounds import exact_gaussian, pld_that_fits
from dpaudit.accounting.calibrate import LARGEST, SMALLEST, MakeEvent, calibrate_event
from dpaudit.accounting.curves import PrivacyCurve
from dpaudit.errors import CannotCalibrate, Refusal, UnsupportedEvent, UsageError
from dpaudit.records import Relation

Kind = Literal["epsilon", "mu", "tpr"]
_PATTERN = re.compile(r"\s*(epsilon|mu|tpr)\s*=\s*([^@\s]+)\s*(?:@\s*fpr\s*=\s*(\S+)\s*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the noise must reach: epsilon (at a delta), mu (for every delta down to one), or a TPR at `fpr`."""

    kind: Kind
    value: float
    fpr: float | None = None

    def __post_init__(self) -> None:
        _validate.positive(**{self.kind: self.value})
        if (self.kind == "tpr") != (self.fpr is not None):
            raise UsageError("a target on the TPR needs its FPR, as in tpr=0.05@fpr=0.01; other targets have none.")
        if self.fpr is not None:
            _validate.open_unit_interval(tpr=self.value, fpr=self.fpr)
            if self.value <= self.fpr:
                raise CannotCalibrate(
                    f"tpr must be above fpr: guessing at random reaches tpr = fpr = {self.fpr:g}; got {self.value:g}."
                )


def parse_target(text: str) -> Target:
    """Read `epsilon=3`, `mu=0.6` or `tpr=0.05@fpr=0.01`; raise UsageError for anything else."""
    match = _PATTERN.fullmatch(text)
    try:
        if match is None:
            raise ValueError(text)
        kind, value, fpr = match.groups()
        return Target(kind=cast(Kind, kind), value=float(value), fpr=None if fpr is None else float(fpr))
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"a target is epsilon=3, mu=0.6 or tpr=0.05@fpr=0.01; got {text!r}.") from error


def _measure(target: Target, delta: float, make_event: MakeEvent, relation: Relation) -> Callable[[float], float]:
    """Return what is to be brought down to the target: mu, or how far the TPR is above chance."""

    def measured(z: float) -> float:
        event = make_event(z)
        mu = exact_gaussian(event, relation) if target.kind == "mu" else None
        if mu is not None:
            return mu
        try:
            curve = PrivacyCurve(pld_that_fits(event, relation=relation))
        except UnsupportedEvent:
            raise
        except Refusal:
            return math.inf
        if target.fpr is None:
            return curve.mu_only(delta)
        return float(curve.true_positive_rate(target.fpr)) - target.fpr

    return measured


def calibrate_target(
    target: Target,
    delta: float,
    make_event: MakeEvent,
    *,
    accountant: str = "pld",
    relation: Relation | str = Relation.ADD_OR_REMOVE_ONE,
) -> float:
    """Return the least noise multiplier that reaches a target, on the safe side.

    Args:
        target: see `Target`.
        delta: of epsilon; for mu the smallest delta down to which the mu-GDP curve must cover the profile; not
            used for tpr.
        make_event: event for a noise multiplier; more noise must not cost more.
        accountant: "pld" or "rdp" for epsilon; mu and tpr come from a privacy loss distribution.
        relation: neighbouring relation.

    Raises: CannotCalibrate, UsageError, UnsupportedEvent.
    """
    if target.kind == "epsilon":
        return calibrate_event(target.value, delta, make_event, accountant=accountant, relation=relation)
    _validate.open_unit_interval(delta=delta)
    if accountant != "pld":
        raise UsageError(f"a target on {target.kind} needs the accountant 'pld'; got {accountant!r}.")
    limit = target.value if target.fpr is None else target.value - target.fpr
    search = Search(_measure(target, delta, make_event, as_relation(relation)), limit * (1 - MARGIN))
    return search.search(1.0, (SMALLEST, LARGEST))
