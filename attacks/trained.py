"""A trained attack model (Shokri et al., arXiv:1610.05820; Salem et al., arXiv:1806.01246).

The attacker's own reference models show what outputs on members and on non-members look like; a classifier learns the
difference from them, and is then asked about the target.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from dpaudit.attacks import statistics
from dpaudit.attacks.base import OUTPUTS, REFERENCE_MODELS, Floats, Observed, references_of
from dpaudit.errors import DataError, MissingDependency

Kind = Literal["logistic", "boosting"]

_MOST_ROWS = 200_000
_TOP = 3


def attack_features(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """Return what the classifier sees of each example, (n, 4 + 3): confidences and the three largest log-probabilities.

    Log-probability of the label, logit confidence, margin, entropy; then the top three (fewer classes: padded with
    the smallest).
    """
    wide = np.asarray(logits, dtype=np.float64)
    log_p = np.maximum(wide - logsumexp(wide, axis=1, keepdims=True), -50.0)
    top = -np.sort(-log_p, axis=1)[:, :_TOP]
    top = np.pad(top, ((0, 0), (0, _TOP - top.shape[1])), mode="edge")
    columns = [
        np.maximum(statistics.log_probability(wide, labels), -50.0),
        np.clip(statistics.logit_confidence(wide, labels), -50.0, 50.0),
        np.clip(statistics.margin(wide, labels), -50.0, 50.0),
        statistics.entropy(wide),
    ]
    return np.concatenate([np.stack(columns, axis=1), top], axis=1)


def _classifier(kind: Kind, seed: int) -> Any:
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingDependency("a trained attack needs scikit-learn: pip install 'dpaudit[train]'.") from error
    if kind == "logistic":
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    return HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=16, early_stopping=False, random_state=seed)


@dataclass(frozen=True, slots=True)
class TrainedAttack:
    """Scores an example by the log-odds of membership that a classifier of outputs gives."""

    kind: Kind = "logistic"
    seed: int = 0
    threat_model: str = "black box with scores, and models trained by the attacker with and without the records"
    needs: frozenset[str] = frozenset({OUTPUTS, REFERENCE_MODELS})

    @property
    def name(self) -> str:
        """Name in the registry: trained-logistic or trained-boosting."""
        return f"trained-{self.kind}"

    def score(self, observed: Observed) -> Floats:
        """Return the mean log-odds over the examples of each unit, shape (units,).

        Raises: DataError when the reference models have no members or no non-members.
        """
        logits, inside = references_of(observed, self.name)
        of_example = inside if observed.unit is None else inside[:, observed.unit]
        if of_example.all() or not of_example.any():
            raise DataError(f"the attack {self.name!r} needs reference models trained with and without the records.")
        rows, truth = self._training_rows(logits, of_example, observed.labels)
        classifier = _classifier(self.kind, self.seed).fit(rows, truth)
        return observed.of_units(classifier.decision_function(attack_features(observed.logits, observed.labels)))

    def _training_rows(
        self, logits: NDArray[np.floating], inside: NDArray[np.bool_], labels: NDArray[np.integer]
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Return features and membership of at most 200,000 (model, example) pairs."""
        models, n = inside.shape
        keep = max(1, _MOST_ROWS // models)
        chosen = np.arange(n) if n <= keep else np.random.default_rng(self.seed).choice(n, keep, replace=False)
        features = [attack_features(model[chosen], labels[chosen]) for model in logits]
        return np.concatenate(features), inside[:, chosen].ravel()
