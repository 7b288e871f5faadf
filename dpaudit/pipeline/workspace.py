"""The folder of one run: where things lie, who may continue it, and its root seed.

plan.json      digest of the configuration and the noise multiplier
ledger.jsonl   what was spent, line by line
model.keras    the released model
private/       root seed, checkpoint, participation: never published
coins/         which canaries were in: apart from the observations
observations/  what an auditor sees of the canaries
evidence/      the bundle that gate and report read
verdict.json  verdict.txt  junit.xml  report.html
"""

from dataclasses import dataclass
from pathlib import Path

from dpaudit import _rng, serialize
from dpaudit.config import RunConfig
from dpaudit.errors import DataError, OutputExists, UsageError
from dpaudit.federated.run_files import stored_root

PLAN = "plan.json"
SCHEMA = "dpaudit.plan/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """An output folder that belongs to one configuration."""

    out: Path
    root: int
    noise_multiplier: float | None

    @property
    def ledger(self) -> Path:
        """The privacy ledger."""
        return self.out / "ledger.jsonl"

    @property
    def evidence(self) -> Path:
        """The evidence bundle."""
        return self.out / "evidence"


def config_digest(config: RunConfig) -> str:
    """Return the SHA-256 of what is trained; how it is audited and judged may change on resume."""
    trained = config.model_dump(mode="json", exclude={"audit", "policy"})
    return serialize.sha256_bytes(serialize.dumps(trained).encode())


def open_workspace(config: RunConfig, out: Path, *, resume: bool) -> Workspace:
    """Take a new folder, or go on in one that holds this very run.

    Raises: OutputExists if the folder holds something and `resume` is off; UsageError if it holds another run.
    """
    if out.exists() and not out.is_dir():
        raise OutputExists(f"{out} is a file. Choose a folder for --out.")
    holds_something = out.is_dir() and any(out.iterdir())
    if holds_something and not resume:
        raise OutputExists(f"{out} already holds a run or other files. Choose another --out, or go on with --resume.")
    if holds_something and (out / PLAN).is_file():
        return _continue(config, out)
    if holds_something:
        raise UsageError(f"{out} holds no plan of a dpaudit run, so there is nothing to resume. Choose another --out.")
    return _begin(config, out)


def _begin(config: RunConfig, out: Path) -> Workspace:
    """Check that the folder can be made; it is claimed by `fix_noise`, when it is clear that the run can start."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputExists(f"cannot make the folder {out}: {error.strerror}. Choose another --out.") from error
    return Workspace(out=out, root=_new_root(config), noise_multiplier=None)


def _new_root(config: RunConfig) -> int:
    return _rng.root_from_entropy() if config.run.seed == "os-entropy" else config.run.seed


def _write_plan(config: RunConfig, out: Path, *, noise_multiplier: float | None) -> None:
    plan = {"schema": SCHEMA, "config_sha256": config_digest(config), "noise_multiplier": noise_multiplier}
    serialize.write_atomic(out / PLAN, serialize.dumps(plan))


def fix_noise(config: RunConfig, workspace: Workspace, noise_multiplier: float) -> Workspace:
    """Remember the calibrated noise, so that a resumed run cannot end up with another one."""
    _write_plan(config, workspace.out, noise_multiplier=noise_multiplier)
    return Workspace(out=workspace.out, root=workspace.root, noise_multiplier=noise_multiplier)


def _continue(config: RunConfig, out: Path) -> Workspace:
    """Go on; a run that was stopped before its first round has no root seed yet and gets a new one."""
    plan = serialize.loads((out / PLAN).read_bytes())
    if not isinstance(plan, dict) or plan.get("schema") != SCHEMA:
        raise DataError(f"{out / PLAN} is not a plan of schema {SCHEMA}.")
    if plan.get("config_sha256") != config_digest(config):
        raise UsageError(f"{out} holds a run of another configuration. Resume with the one it was started with.")
    root = stored_root(out)
    return Workspace(
        out=out, root=_new_root(config) if root is None else root, noise_multiplier=plan.get("noise_multiplier")
    )
