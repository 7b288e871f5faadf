"""`dpaudit doctor`: what is installed, what conflicts, and the command that repairs it."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import click

from dpaudit.cli.output import emit, json_option

TFP_INSTALL = (
    "pip install --no-deps tensorflow-privacy==0.9.0 && "
    "pip install 'dm-tree>=0.1.8' 'tensorflow-probability>=0.25' 'tf-keras>=2.21,<2.22'"
)
WANTED = {
    "dp-accounting": ("0.6", "pip install 'dp-accounting>=0.6,<0.7'"),
    "scipy": ("1.13", "pip install 'scipy>=1.13'"),
    "matplotlib": ("3.8", "pip install 'matplotlib>=3.8'"),
    "tensorflow": ("2.21", "pip install 'dpaudit[train]'"),
    "scikit-learn": ("1.5", "pip install 'dpaudit[train]'"),
    "cryptography": ("43", "pip install 'dpaudit[train]'"),
    "tensorflow-privacy": ("0.9.0", TFP_INSTALL),
    "ai-edge-litert": ("2.0", "pip install 'dpaudit[litert]'"),
    "pyarrow": ("17", "pip install 'dpaudit[parquet]'"),
    "flwr": ("1.41", "pip install 'dpaudit[flower]'"),
    "joblib": ("1.4", "pip install 'dpaudit[fanout]'"),
    "ray": ("2.55", "pip install 'dpaudit[ray]'"),
}
BELOW = {"flwr": "1.42"}
"""The first version that was not tested, where interfaces change between minor versions."""
REQUIRED = frozenset({"dp-accounting", "scipy", "matplotlib"})


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())


def _inspect(name: str) -> dict[str, object]:
    least, repair = WANTED[name]
    try:
        found = version(name)
    except PackageNotFoundError:
        return {
            "package": name,
            "installed": None,
            "ok": name not in REQUIRED,
            "needed_for_core": name in REQUIRED,
            "repair": repair,
        }
    ok = _numbers(found) >= _numbers(least) and (name not in BELOW or _numbers(found) < _numbers(BELOW[name]))
    return {
        "package": name,
        "installed": found,
        "ok": ok,
        "needed_for_core": name in REQUIRED,
        "repair": None if ok else repair,
    }


def _self_test() -> dict[str, object]:
    """Account one known mechanism both ways; Gaussian noise 1 at delta 1e-5 is epsilon 4.37717810 exactly."""
    from dpaudit import accounting, events

    event = events.Gaussian(noise_multiplier=1.0)
    pld, rdp = (accounting.epsilon(event, 1e-5, accountant=name) for name in ("pld", "rdp"))
    return {"pld": pld, "rdp": rdp, "exact": 4.377178095681, "ok": abs(pld - 4.377178095681) < 1e-3 and rdp >= pld}


def _guarded(test: Callable[[], dict[str, object]]) -> dict[str, object]:
    """A self-test that cannot run has failed, with the reason."""
    try:
        return test()
    except Exception as error:
        return {"ok": False, "reason": f"{type(error).__name__}: {error}"}


@click.command()
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Say what is installed and what is missing, and test both accountants on a known mechanism."""
    packages = [_inspect(name) for name in WANTED]
    test = _guarded(_self_test)
    healthy = all(bool(row["ok"]) for row in packages) and bool(test["ok"])
    lines = [
        f"{'ok' if row['ok'] else 'BAD':4} {row['package']:20} {row['installed'] or 'not installed'}"
        for row in packages
    ]
    lines += [f"     to install or repair {row['package']}: {row['repair']}" for row in packages if row["repair"]]
    lines.append(f"{'ok' if test['ok'] else 'BAD':4} accountants on a known mechanism: {test}")
    emit("doctor", {"ok": healthy, "packages": packages, "self_test": test}, "\n".join(lines), as_json=as_json)
    ctx.exit(0 if healthy else 1)
