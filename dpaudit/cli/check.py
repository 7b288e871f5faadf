"""`dpaudit check ...`: statistical and exact checks that need no training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpaudit.cli.executor_options import chosen_executor, executor_options
from dpaudit.cli.output import emit, json_option
from dpaudit.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS

if TYPE_CHECKING:
    from dpaudit.records import CheckResult, Scalar, Status
    from dpaudit.verification import PrivacyClaim
    from dpaudit.verification.draws import Mechanism
    from dpaudit.verification.neighbours import Pairs


@click.group("check")
def command() -> None:
    """Check what ran against what was claimed. Exit code: 0 pass, 1 fail, 3 inconclusive."""


def report(ctx: click.Context, results: Sequence["CheckResult"], *, as_json: bool, **facts: "Scalar") -> None:
    """Print the results of a check command and leave with the exit code of the worst."""
    from dpaudit.records import Status

    status = overall(results)
    refuted = sorted({result.refuted for result in results if result.refuted is not None})
    payload = {"status": status, "checks": list(results), "refuted": refuted, **facts}
    lines = [f"{result.status.value.upper():13} {result.id}: {result.detail}" for result in results]
    lines += [f"refuted: {claim}" for claim in refuted]
    emit("check", payload, "\n".join([*lines, status.value.upper()]), as_json=as_json)
    ctx.exit({Status.PASS: EXIT_PASS, Status.FAIL: EXIT_FAIL}.get(status, EXIT_INCONCLUSIVE))


def overall(results: Sequence["CheckResult"]) -> "Status":
    """Return FAIL if any check failed, PASS if there are checks and all passed, else INCONCLUSIVE."""
    from dpaudit.records import Status

    if any(result.status == Status.FAIL for result in results):
        return Status.FAIL
    passed = bool(results) and all(result.status == Status.PASS for result in results)
    return Status.PASS if passed else Status.INCONCLUSIVE


@command.command()
@click.argument("indices", type=click.Path(path_type=Path))
@click.option("--sampling-rate", type=float, help="The claimed probability per unit and round (Poisson sampling).")
@click.option("--ledger", type=click.Path(path_type=Path), help="Instead: test the sampler that this ledger claims.")
@click.option("--population", type=click.IntRange(min=1), help="Number of units; default: the largest index + 1.")
@click.option("--rounds", type=click.IntRange(min=1), help="Number of batches of a .csv whose last ones are empty.")
@click.option("--significance", type=float, default=0.01, show_default=True, help="False-alarm probability, all tests.")
@json_option
@click.pass_context
def sampling(
    ctx: click.Context,
    /,
    *,
    indices: Path,
    sampling_rate: float | None,
    ledger: Path | None,
    population: int | None,
    rounds: int | None,
    significance: float,
    as_json: bool,
) -> None:
    """Test recorded batches against a sampler: .npz, .csv (batch, index) or .jsonl (a list per batch)."""
    from dpaudit import _validate, events, verification
    from dpaudit.errors import UsageError
    from dpaudit.ledger import PrivacyLedger
    from dpaudit.verification.batch_files import read_batches

    if (sampling_rate is None) == (ledger is None):
        raise UsageError("give either --sampling-rate or --ledger.")
    if ledger is not None:
        sampler = verification.claimed_sampler(PrivacyLedger.open(ledger))
    else:
        rate = float(sampling_rate or 0.0)
        _validate.sampling_rate(sampling_rate=rate)
        sampler = events.PoissonSampled(sampling_rate=rate, event=events.NoOp())
    if population is None and isinstance(sampler, events.SampledWithoutReplacement):
        population = sampler.population
    batches, units = read_batches(indices, population=population, rounds=rounds)
    results = verification.check_sampler(batches, population=units, sampler=sampler, significance=significance)
    claimed = type(sampler).__name__
    report(
        ctx, results, as_json=as_json, sampler=claimed, rounds=len(batches), population=units, significance=significance
    )


@command.command()
@click.argument("ledger", type=click.Path(path_type=Path))
@click.option("--rounds", type=click.IntRange(min=0), help="Rounds that the trainer says it ran.")
@click.option("--noise-draws", type=click.IntRange(min=0), help="Draws of noise that the trainer made.")
@json_option
@click.pass_context
def ledger(ctx: click.Context, /, ledger: Path, rounds: int | None, noise_draws: int | None, as_json: bool) -> None:
    """Check a privacy ledger: intact, no gaps, the promised noise in every round, one fixed denominator."""
    from dpaudit import verification
    from dpaudit.ledger import PrivacyLedger

    opened = PrivacyLedger.open(ledger)
    results = verification.check_ledger(opened, rounds_run=rounds, noise_draws=noise_draws)
    report(ctx, results, as_json=as_json, digest=opened.digest, torn_bytes=opened.torn_bytes)


@command.command()
@click.argument("factory")
@click.option("--noise-multiplier", type=float, required=True, help="The claim: noise over the largest contribution.")
@click.option("--sampling-rate", type=float, default=1.0, show_default=True, help="To turn a finding into an epsilon.")
@click.option("--steps", type=click.IntRange(min=1), help="To turn a finding into an epsilon.")
@click.option("--delta", type=float, help="To turn a finding into an epsilon.")
@click.option("--significance", type=float, default=0.01, show_default=True, help="False-alarm probability, all tests.")
@click.option("--seed", type=int, default=0, show_default=True, help="First of the seeds that the step is run with.")
@json_option
@click.pass_context
def step(
    ctx: click.Context,
    /,
    *,
    factory: str,
    noise_multiplier: float,
    sampling_rate: float,
    steps: int | None,
    delta: float | None,
    significance: float,
    seed: int,
    as_json: bool,
) -> None:
    """Test one training step: FACTORY is module:function, and returns a dpaudit.verification.Step."""
    from dpaudit import verification
    from dpaudit._objects import load_object

    made = load_object(factory)
    claim = verification.StepClaim(
        noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, steps=steps, delta=delta
    )
    results = verification.check_step(made, claim, significance=significance, seed=seed)
    report(ctx, results, as_json=as_json, significance=significance, seed=seed)


@command.command()
@click.argument("target")
@click.option("--epsilon", type=float, help="Claimed epsilon; or give --mu.")
@click.option("--delta", type=float, default=0.0, show_default=True, help="Claimed delta.")
@click.option("--mu", type=float, help="Claimed Gaussian differential privacy, tested at its whole profile.")
@click.option("--renyi", type=(float, float), metavar="ORDER EPSILON", help="Claimed Renyi differential privacy.")
@click.option(
    "--profile", type=click.Path(path_type=Path), help="Claimed profile: the output of `dpaudit account --json`."
)
@click.option(
    "--pairs", help="MODULE:OBJECT, dpaudit.verification.Neighbours or a strategy, if TARGET is a bare function."
)
@click.option("--search", type=click.IntRange(min=1), default=24, show_default=True, help="Pairs drawn by a strategy.")
@click.option(
    "--max-pairs", type=click.IntRange(min=1), default=20_000, show_default=True, help="Outputs on each side."
)
@click.option("--fixed", is_flag=True, help="Draw all outputs, and say by how much the claim is missed.")
@click.option("--float-bits", is_flag=True, help="Also look for the holes of floating-point noise.")
@click.option("--significance", type=float, default=0.01, show_default=True, help="False-alarm probability.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@executor_options
@json_option
@click.pass_context
def mechanism(
    ctx: click.Context,
    /,
    *,
    target: str,
    epsilon: float | None,
    delta: float,
    mu: float | None,
    renyi: tuple[float, float] | None,
    profile: Path | None,
    pairs: str | None,
    search: int,
    max_pairs: int,
    fixed: bool,
    float_bits: bool,
    significance: float,
    seed: int,
    executor: str,
    processes: int | None,
    ray_address: str | None,
    as_json: bool,
) -> None:
    """Test a mechanism on pairs of neighbouring data sets, until its claim is refuted or the budget is used.

    TARGET is module:object: a dpaudit.verification.MechanismSubject, a function that returns one when called, or the
    mechanism(dataset, n) itself together with --pairs.
    """
    from dpaudit import verification

    mechanism, neighbours = _subject(target, pairs)
    claim = _claim(epsilon, delta, mu=mu, renyi=renyi, profile=profile)
    options: dict[str, Any] = {"significance": significance, "search": search, "float_bits": float_bits, "seed": seed}
    facts: dict[str, Scalar] = {"claim": claim.text, "significance": significance, "seed": seed}
    with chosen_executor(executor, processes, ray_address) as where:
        options["executor"] = where
        if fixed:
            result, bound = verification.check_mechanism_fixed(
                mechanism, neighbours, claim, outputs=max_pairs, **options
            )
            facts |= {"epsilon_at_least": bound.epsilon(delta) if bound else None, "delta": delta}
        else:
            result = verification.check_mechanism(mechanism, neighbours, claim=claim, max_pairs=max_pairs, **options)
    report(ctx, [result], as_json=as_json, **facts)


def _claim(
    epsilon: float | None,
    delta: float,
    *,
    mu: float | None,
    renyi: tuple[float, float] | None,
    profile: Path | None,
) -> "PrivacyClaim":
    """Return the one claim that the options make."""
    from dpaudit import serialize
    from dpaudit.errors import DataError, UsageError
    from dpaudit.verification import PrivacyClaim

    if sum(given is not None for given in (epsilon, mu, renyi, profile)) != 1:
        raise UsageError("give either --epsilon (and --delta), --mu, --renyi or --profile.")
    if mu is not None:
        return PrivacyClaim.gaussian(mu)
    if renyi is not None:
        return PrivacyClaim.renyi(*renyi)
    if profile is None:
        return PrivacyClaim.approximate(float(epsilon or 0.0), delta)
    try:
        listed = serialize.loads(profile.read_text(encoding="utf-8"))["profile"]
        points = tuple(sorted((float(point["epsilon"]), float(point["delta"])) for point in listed))
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{profile} must hold a `profile` of epsilon and delta ({error}).") from error
    return PrivacyClaim(points=points, text=f"the profile of {profile.name}")


def _subject(target: str, pairs: str | None) -> "tuple[Mechanism, Pairs]":
    """Return what to test, and on what: a subject, what a function without arguments makes, or a function and pairs."""
    from dpaudit._objects import load_object
    from dpaudit.errors import UsageError
    from dpaudit.verification import MechanismSubject

    found = load_object(target)
    if pairs is not None:
        return (found.mechanism if isinstance(found, MechanismSubject) else found), load_object(pairs)
    if callable(found) and not isinstance(found, MechanismSubject):
        try:
            found = found()
        except TypeError as error:
            raise UsageError(f"{target!r} needs arguments ({error}); give --pairs if it is the mechanism.") from error
    if not isinstance(found, MechanismSubject):
        raise UsageError(f"{target!r} must be a dpaudit.verification.MechanismSubject; got {type(found).__name__}.")
    return found.mechanism, found.pairs
