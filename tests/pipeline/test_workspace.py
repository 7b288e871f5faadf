"""An output folder belongs to one run."""

import json
from pathlib import Path

import pytest

from dpaudit import config
from dpaudit.errors import DataError, OutputExists, UsageError
from dpaudit.pipeline.workspace import fix_noise, open_workspace

DIGITS = config.load(Path(__file__).resolve().parents[2] / "examples" / "digits_federated.toml")
ENTROPY = DIGITS.model_copy(update={"run": DIGITS.run.model_copy(update={"seed": "os-entropy"})})


def store_root(out, root):
    """What the trainer writes before its first round."""
    (out / "private").mkdir()
    (out / "private" / "root.json").write_text(json.dumps({"root": root}))


def test_runs_from_entropy_have_different_roots(tmp_path):
    roots = {open_workspace(ENTROPY, tmp_path / str(i), resume=False).root for i in range(4)}
    assert len(roots) == 4
    assert max(roots).bit_length() > 100
    assert open_workspace(DIGITS, tmp_path / "fixed", resume=False).root == DIGITS.run.seed


def test_a_resumed_run_keeps_seed_and_noise(tmp_path):
    first = fix_noise(ENTROPY, open_workspace(ENTROPY, tmp_path / "a", resume=False), 1.25)
    store_root(tmp_path / "a", first.root)
    again = open_workspace(ENTROPY, tmp_path / "a", resume=True)
    assert (again.root, again.noise_multiplier) == (first.root, 1.25)


def test_a_run_that_was_stopped_before_training_starts_anew(tmp_path):
    first = fix_noise(ENTROPY, open_workspace(ENTROPY, tmp_path / "a", resume=False), 1.25)
    again = open_workspace(ENTROPY, tmp_path / "a", resume=True)
    assert again.root != first.root
    assert again.noise_multiplier == 1.25


def test_a_run_that_could_not_start_leaves_the_folder_free(tmp_path):
    open_workspace(DIGITS, tmp_path / "a", resume=False)
    assert list((tmp_path / "a").iterdir()) == []
    assert open_workspace(ENTROPY, tmp_path / "a", resume=False).noise_multiplier is None
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputExists, match="cannot make"):
        open_workspace(DIGITS, tmp_path / "file" / "below", resume=False)


def test_folders_that_are_refused(tmp_path):
    fix_noise(DIGITS, open_workspace(DIGITS, tmp_path / "a", resume=False), 1.0)
    with pytest.raises(OutputExists, match="already holds a run"):
        open_workspace(DIGITS, tmp_path / "a", resume=False)
    with pytest.raises(UsageError, match="another configuration"):
        open_workspace(ENTROPY, tmp_path / "a", resume=True)
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "thesis.docx").write_text("do not touch")
    with pytest.raises(UsageError, match="nothing to resume"):
        open_workspace(DIGITS, tmp_path / "strange", resume=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputExists, match="is a file"):
        open_workspace(DIGITS, tmp_path / "file", resume=False)
    store_root(tmp_path / "a", "not a number")
    with pytest.raises(DataError, match="root seed"):
        open_workspace(DIGITS, tmp_path / "a", resume=True)
    assert (tmp_path / "strange" / "thesis.docx").read_text() == "do not touch"
