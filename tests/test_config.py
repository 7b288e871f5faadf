"""Configurations: every problem at once, with its line; nothing unknown passes."""

from pathlib import Path

import pytest

from dpaudit import config
from dpaudit.errors import ConfigError, DataError

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
DIGITS = (EXAMPLES / "digits_federated.toml").read_text()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda p: p.name)
def test_examples_are_valid(path):
    assert config.load(path).run.name


def test_every_problem_is_told_at_once_with_its_line():
    text = (
        DIGITS.replace("rounds =", "ronds =")
        .replace("delta = 1e-5", "delta = 2.0")
        .replace("alpha = 0.5", "alpha = nan")
    )
    with pytest.raises(ConfigError) as caught:
        config.parse(text)
    message = str(caught.value)
    assert "unknown key 'training.ronds'. Did you mean 'rounds'?" in message
    assert "missing key 'training.rounds'" in message
    assert "claim.delta" in message
    assert "partition.alpha" in message
    lines = text.splitlines()
    number = next(i for i, line in enumerate(lines, 1) if line.startswith("ronds"))
    assert f"line {number}: unknown key" in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('unit = "example"', 'unit = "client"', "protects the example"),
        ("client_sampling_rate = 0.5", "client_sampling_rate = 1.5", "client_sampling_rate"),
        ("clip_norm = 1.0", "clip_norm = inf", "clip_norm"),
        ("epsilon = 6.0", "epsilon = -1", "claim.epsilon"),
        ("clients = 50", "", "needs partition.clients"),
        ("[run]", "[run", "not valid TOML"),
        ("[run]", "[nun]", "unknown key 'nun'"),
    ],
)
def test_single_problems(old, new, what):
    assert old in DIGITS
    with pytest.raises(ConfigError, match=what):
        config.parse(DIGITS.replace(old, new, 1))


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        config.load(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read"):
        config.load(tmp_path / "binary.toml")
