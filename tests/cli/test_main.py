"""The group: suggestions, one JSON document also on failure, exit codes."""

import json

import click
import pytest

from dpaudit import __version__
from dpaudit.cli import main
from dpaudit.errors import DataError, UnsupportedEvent


def test_help_lists_every_command_and_every_listed_command_exists(capsys):
    assert main.run(["--help"]) == 0
    text = capsys.readouterr().out
    for name in main.COMMANDS:
        assert f"  {name} " in text
        command = main.cli.get_command(None, name)
        assert isinstance(command, click.Command), name


@pytest.mark.parametrize("name", sorted(main.COMMANDS))
def test_every_command_explains_itself(name, capsys):
    assert main.run([name, "--help"]) == 0
    assert "Usage:" in capsys.readouterr().out


def test_version(capsys):
    assert main.run(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["gaet"], ["gate"], ["gate", "x", "--nonsense"], ["calibrate"]])
def test_usage_errors_exit_2(arguments, capsys):
    assert main.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Error" in captured.err


def test_did_you_mean(capsys):
    main.run(["gaet"])
    assert "Did you mean 'gate'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(DataError("x"), 2), (UnsupportedEvent("x"), 3), (KeyboardInterrupt(), 130), (ZeroDivisionError("x"), 70)],
)
def test_errors_become_exit_codes_and_one_document(monkeypatch, capsys, error, code):
    def broken(**_):
        raise error

    monkeypatch.setattr(main.cli, "main", broken)
    assert main.run(["gate", "--json"]) == code
    out = capsys.readouterr().out
    if code == 130:
        assert out == ""
    else:
        document = json.loads(out)
        assert document["schema"] == "dpaudit.gate/v1"
        assert document["error"]["exit_code"] == code


def test_only_an_internal_error_shows_a_traceback(monkeypatch, capsys):
    def broken(**_):
        raise DataError("the file is empty")

    monkeypatch.setattr(main.cli, "main", broken)
    assert main.run(["gate"]) == 2
    assert capsys.readouterr().err == "dpaudit: the file is empty\n"


@pytest.mark.parametrize("arguments", [["--json"], ["gaet", "--json"]])
def test_without_a_command_the_document_says_error(arguments, capsys):
    assert main.run(arguments) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "dpaudit.error/v1"
    assert document["error"]["exit_code"] == 2
