"""The only view of a label-only attacker: predicted classes, checked and counted."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.attacks.base import Observed
from dpaudit.errors import DataError, DpauditError


class Oracle:
    """Asks the target for labels. `x` are the records as float32, `queries` how many records were asked about."""

    def __init__(self, observed: Observed, attack: str) -> None:
        """Take the oracle of what was observed; raise DataError when there is none."""
        if observed.label_oracle is None or observed.x is None:
            raise DataError(
                f"the attack {attack!r} needs the records and a model to query; a file of outputs has none."
            )
        try:
            self.x = np.asarray(observed.x, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"the attack {attack!r} alters records, which must be numbers ({error}).") from error
        self.queries = 0
        self._ask = observed.label_oracle

    def ask(self, records: NDArray[Any]) -> NDArray[np.int64]:
        """Return predicted classes (m,); raise DataError when the model fails or answers with something else."""
        self.queries += len(records)
        try:
            labels = np.asarray(self._ask(records))
        except DpauditError:
            raise
        except Exception as error:
            raise DataError(f"the model failed on altered records: {type(error).__name__}: {error}") from error
        if labels.shape != (len(records),) or not np.issubdtype(labels.dtype, np.integer):
            raise DataError(f"the model must give one class per record, ({len(records)},); got {labels.shape}.")
        return labels.astype(np.int64)
