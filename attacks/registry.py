"""Names of attacks to factories: our own, those registered at run time, and third parties' entry points."""

import difflib
from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points

from dpaudit.attacks import lira, rmia
from dpaudit.attacks.base import Attack
from dpaudit.attacks.boundary_distance import BoundaryDistanceAttack
from dpaudit.attacks.calibrated_loss import CalibratedLossAttack
from dpaudit.attacks.entropy import EntropyAttack
from dpaudit.attacks.gradient_alignment import GradientAlignmentAttack
from dpaudit.attacks.gradient_norm import GradientNormAttack
from dpaudit.attacks.label_robustness import LabelRobustnessAttack
from dpaudit.attacks.loss import LossAttack
from dpaudit.attacks.margin import ConfidenceMarginAttack
from dpaudit.attacks.modified_entropy import ModifiedEntropyAttack
from dpaudit.attacks.population import PopulationAttack
from dpaudit.attacks.quantile import QuantileAttack
from dpaudit.attacks.trained import TrainedAttack
from dpaudit.errors import UsageError

GROUP = "dpaudit.attacks"
"""Entry point group: `name = "package.module:factory"`, where `factory()` returns an Attack."""

Factory = Callable[[], Attack]

_FACTORIES: dict[str, Factory] = {
    "boundary-distance": BoundaryDistanceAttack,
    "calibrated-loss": CalibratedLossAttack,
    "confidence-margin": ConfidenceMarginAttack,
    "entropy": EntropyAttack,
    "gradient-alignment": GradientAlignmentAttack,
    "gradient-norm": GradientNormAttack,
    "label-robustness": LabelRobustnessAttack,
    "lira": lira.LiraAttack,
    "lira-offline": lira.offline,
    "loss": LossAttack,
    "modified-entropy": ModifiedEntropyAttack,
    "population": PopulationAttack,
    "quantile": QuantileAttack,
    "rmia": rmia.RmiaAttack,
    "rmia-offline": rmia.offline,
    "trained-boosting": partial(TrainedAttack, "boosting"),
    "trained-logistic": partial(TrainedAttack, "logistic"),
}


def register(name: str, factory: Factory) -> None:
    """Add an attack; raise UsageError if the name is taken."""
    if name in _FACTORIES:
        raise UsageError(f"an attack named {name!r} exists already; choose another name.")
    _FACTORIES[name] = factory


def names() -> tuple[str, ...]:
    """Return the names of all known attacks, sorted."""
    return tuple(sorted({*_FACTORIES, *(point.name for point in entry_points(group=GROUP))}))


def make(name: str) -> Attack:
    """Build the attack of that name; our own names win over entry points.

    Raises: UsageError for an unknown name, or for an entry point that cannot be loaded or returns no attack.
    """
    if name in _FACTORIES:
        return _FACTORIES[name]()
    for point in entry_points(group=GROUP, name=name):
        return _from_entry_point(name, point.load)
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(names())}."
    raise UsageError(f"there is no attack named {name!r}.{hint}")


def _from_entry_point(name: str, load: Callable[[], Factory]) -> Attack:
    try:
        attack = load()()
    except Exception as error:
        raise UsageError(
            f"the attack {name!r} of another package cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(attack, Attack):
        raise UsageError(
            f"the attack {name!r} must have name, threat_model, needs and score; got {type(attack).__name__}."
        )
    return attack
