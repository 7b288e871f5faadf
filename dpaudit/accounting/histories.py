"""Privacy histories that other tools keep, as events: what they recorded, read with the meaning they documented.

Nothing is guessed: a sampler or a unit that the other tool does not record has to be named by the caller.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

from dpaudit import events as ev
from dpaudit.accounting.group import group_event
from dpaudit.accounting.steps import steps_of
from dpaudit.errors import DataError


def from_opacus(history_or_state: Any, *, sampler: str = "poisson") -> ev.Event:
    """Return the event of an Opacus accountant, its `history`, or its `state_dict()`.

    The history is a list of (noise multiplier, sample rate, steps). Opacus accounts for Poisson sampling whatever
    the data loader did: say `sampler="shuffle"` if `poisson_sampling=False` was used.

    Raises: DataError if there is no history in it.
    """
    source = getattr(history_or_state, "history", history_or_state)
    if isinstance(source, Mapping):
        source = source.get("history")
    if not isinstance(source, list | tuple):
        raise DataError("expected an Opacus accountant, its history or its state_dict; there is no history in it.")
    items = []
    for number, entry in enumerate(source):
        if not isinstance(entry, list | tuple) or len(entry) != 3:
            raise DataError(f"entry {number} of the Opacus history must be (noise, rate, steps); got {entry!r}.")
        noise, rate, steps = entry
        items.append(steps_of(noise, sampling_rate=rate, steps=steps, sampler=sampler))
    return items[0] if len(items) == 1 else ev.Composed(events=tuple(items))


_NAMES = {
    "noise_multiplier": ("noise_multiplier", "noise-multiplier", "sigma"),
    "sampling_rate": ("sampling_rate", "sampling_prob", "sampling_probability", "sample_rate", "q"),
    "steps": ("steps", "iterations", "num_steps", "num_rounds", "rounds", "num_updates"),
}


def _named(parameters: Mapping[str, Any], wanted: str) -> Any:
    found = [name for name in _NAMES[wanted] if name in parameters]
    if len(found) > 1:
        raise DataError(f"{wanted} is given more than once: {', '.join(found)}.")
    return parameters[found[0]] if found else None


def from_parameters(parameters: Mapping[str, Any], *, sampler: str | None = None) -> ev.Event:
    """Return the event of a dictionary of parameters, as Flower or JAX-Privacy programs keep them.

    Understood are a noise multiplier, a number of steps (JAX-Privacy's `iterations`, Flower's `num_rounds`) and a
    sampling rate (JAX-Privacy's `sampling_prob`), or Flower's `num_sampled_clients` with `num_available_clients`.
    Flower samples a fixed number of clients without replacement, so that the latter means "without-replacement"; a rate
    means "poisson". `sampler`, here or as a key of the dictionary, says otherwise.

    Raises: DataError if something needed is missing.
    """
    noise, rate, steps = (_named(parameters, name) for name in _NAMES)
    sampled, available = parameters.get("num_sampled_clients"), parameters.get("num_available_clients")
    if rate is None and sampled is not None and available is not None:
        population, rate, usual = int(available), sampled / available, "without-replacement"
    else:
        population, usual = None, "poisson"
    missing = [name for name, value in zip(_NAMES, (noise, rate, steps), strict=True) if value is None]
    if missing:
        raise DataError(f"the parameters lack {', '.join(missing)}; found {', '.join(map(str, parameters)) or 'none'}.")
    chosen = sampler or parameters.get("sampler") or usual
    return steps_of(noise, sampling_rate=rate, steps=steps, sampler=chosen, population=population)


_FLOWER = {"poisson": "poisson", "without-replacement": "without-replacement", "no-amplification": "none"}


def from_flower(accountant_or_state: Any) -> ev.Event:
    """Return the event of a Flower accountant (1.41 on), or of its `state_dict()`.

    The neighbouring relation is not part of an event: take `state["config"]["neighboring_relation"]`. For
    without-replacement under replace-one our epsilon is larger than Flower's, whose dp-accounting 0.6 under-reports
    there (its issue #378).

    Raises: DataError if it is no such state.
    """
    method = getattr(accountant_or_state, "state_dict", None)
    state = method() if callable(method) else accountant_or_state
    try:
        sampler = _FLOWER[state["config"]["sampling_method"]]
        parts = [
            steps_of(
                item["event"]["noise_multiplier"],
                sampling_rate=item["event"]["sample_size"] / item["event"]["population_size"],
                population=item["event"]["population_size"],
                steps=item["count"],
                sampler=sampler,
            )
            for item in state["compositions"]
        ]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"expected the state of a Flower accountant; {error!r} is missing or of the wrong kind."
        ) from error
    return parts[0] if len(parts) == 1 else ev.Composed(events=tuple(parts))


def _field(params: Any, name: str) -> Any:
    return params.get(name) if isinstance(params, Mapping) else getattr(params, name, None)


def _schedule(value: Any) -> list[tuple[int, Any]]:
    """Return (first step, value) pairs of a JAX-Privacy schedule, which may be one value."""
    return sorted((int(at), item) for at, item in value) if isinstance(value, list | tuple) else [(0, value)]


def _in_force(schedule: list[tuple[int, Any]], step: int) -> Any:
    return schedule[bisect_right([at for at, _ in schedule], step) - 1][1]


def from_jax_privacy(dp_params: Any, num_updates: int) -> ev.Event:
    """Return the event that JAX-Privacy (2.0) accounts for: its `DpParams`, or their fields, and the number of updates.

    Schedules of noise and batch size, truncated and cyclic Poisson sampling (arXiv:2306.08153), fixed batch sizes and
    several examples per user (arXiv:2401.10294) are understood as its accountants understand them. Events of
    dp-accounting, which JAX-Privacy also gives, go through `from_dp_accounting`.

    Raises: DataError if fields are missing, or go together in no way that JAX-Privacy accounts for.
    """
    if _field(dp_params, "is_finite_guarantee") is False:
        return ev.NonPrivate(reason="(JAX-Privacy: is_finite_guarantee is False)")
    noise, samples = _field(dp_params, "noise_multipliers"), _field(dp_params, "num_samples")
    batches = _field(dp_params, "batch_sizes") or _field(dp_params, "batch_size")
    if noise is None or samples is None or batches is None:
        raise DataError("DpParams of JAX-Privacy need noise_multipliers, num_samples and batch_size.")
    noises, sizes = _schedule(noise), _schedule(batches)
    cycle, users = _field(dp_params, "cycle_length") or 1, _field(dp_params, "examples_per_user") or 1
    if cycle > 1 and (users > 1 or len(noises) + len(sizes) > 2):
        raise DataError("cyclic sampling is known for one noise multiplier, one batch size and one example per user.")
    starts = sorted({at for at, _ in (*noises, *sizes) if at < num_updates})
    parts = []
    for start, end in zip(starts, [*starts[1:], num_updates], strict=True):
        step = _jax_step(dp_params, _in_force(noises, start), int(_in_force(sizes, start)), samples // cycle)
        parts.append(ev.SelfComposed(event=group_event(step, users), count=math.ceil((end - start) / cycle)))
    return parts[0] if len(parts) == 1 else ev.Composed(events=tuple(parts))


def _jax_step(params: Any, noise: float, batch: int, samples: int) -> ev.Event:
    """Return one update of JAX-Privacy: a batch of `batch` of `samples` units."""
    method, limit = _field(params, "sampling_method"), _field(params, "truncated_batch_size")
    name = str(getattr(method, "name", method or "POISSON"))
    gaussian = ev.Gaussian(noise_multiplier=noise)
    if name == "FIXED_BATCH_SIZE":
        return ev.SampledWithoutReplacement(population=samples, sample_size=batch, event=gaussian)
    if name != "POISSON":
        raise DataError(f"sampling_method {name!r} of JAX-Privacy is not known; known: POISSON, FIXED_BATCH_SIZE.")
    if limit is None:
        return ev.PoissonSampled(sampling_rate=batch / samples, event=gaussian)
    return ev.TruncatedPoissonGaussian(
        dataset_size=samples, sampling_rate=batch / samples, max_batch_size=int(limit), noise_multiplier=noise
    )
