"""How a threshold or a number of guesses is chosen: declared before the scores are seen, printed with the result."""

import math
from dataclasses import dataclass
from typing import Literal

from dpaudit.errors import UsageError

DEFAULT_INTEREST = 4.0

Kind = Literal["planned", "fixed", "bonferroni", "split"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A declared rule. `count` is R of fixed:R or K of bonferroni:K; `interest` the epsilon of planned:E.

    `given` is False for the default.
    """

    kind: Kind
    count: int = 0
    interest: float = DEFAULT_INTEREST
    given: bool = True

    def __str__(self) -> str:
        if self.kind == "planned":
            return f"planned:{self.interest:g}"
        return self.kind if self.kind == "split" else f"{self.kind}:{self.count}"


def parse_selection(text: str | None, *, guesses: int | None, interest_epsilon: float | None) -> Selection:
    """Read `planned`, `planned:E`, `fixed:R`, `bonferroni:K` or `split`.

    `planned` (the default) computes the rank or number of guesses from the numbers of canaries, delta, the
    confidence and an epsilon of interest alone, never from scores. `guesses=R` is short for `fixed:R`.

    Raises: UsageError for anything else, or for guesses together with another rule.
    """
    if guesses is not None:
        if text not in (None, f"fixed:{guesses}"):
            raise UsageError(
                f"guesses={guesses} is the rule fixed:{guesses}; it contradicts {text!r}. Give one of them."
            )
        text = f"fixed:{guesses}"
    kind, _, number = (text or "planned").partition(":")
    try:
        if kind == "split" and not number:
            return Selection(kind="split", interest=_interest(interest_epsilon))
        if kind == "planned":
            interest = _interest(float(number) if number else interest_epsilon)
            return Selection(kind="planned", interest=interest, given=text is not None)
        if kind == "fixed" and int(number) >= 1:
            return Selection(kind="fixed", count=int(number))
        if kind == "bonferroni" and int(number) >= 1:
            return Selection(kind="bonferroni", count=int(number), interest=_interest(interest_epsilon))
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
    raise UsageError(
        "threshold_selection must be planned, planned:E, fixed:R, bonferroni:K or split, with R and K whole numbers "
        f"of at least 1; got {text!r}."
    )


def _interest(epsilon: float | None) -> float:
    value = DEFAULT_INTEREST if epsilon is None else float(epsilon)
    if not 0 < value < math.inf:
        raise UsageError(f"the epsilon of interest must be finite and greater than 0; got {value!r}.")
    return value
