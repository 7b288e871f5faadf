import json

import pytest

from dpaudit import events as ev
from dpaudit.cli.main import run
from dpaudit.ledger import PrivacyLedger

SGD = ["--noise-multiplier", "1.0", "--sampling-rate", "0.01", "--steps", "1000"]


@pytest.fixture
def call(capsys):
    def invoke(*arguments):
        code = run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return invoke


def test_account_prints_the_keys_of_the_design(call):
    code, out, _ = call("account", *SGD, "--delta", "1e-5", "--json")
    body = json.loads(out)
    assert code == 0
    assert body["schema"] == "dpaudit.account/v1"
    assert body["epsilon"]["pld"] == pytest.approx(1.8282436, rel=1e-6)
    assert body["epsilon"]["rdp"] == pytest.approx(2.101366525, rel=1e-6)
    assert body["epsilon"]["no_amplification"] > 600
    assert body["delta"] == 1e-5
    assert 0.46 < body["mu"] < 0.47
    assert 0 < body["mu_regret"] < 0.02
    assert {"delta": 1e-5, "epsilon": pytest.approx(1.8282436, rel=1e-5)} in body["profile"]
    assert {item["id"] for item in body["assumptions"]} >= {"relation", "unit", "sampler", "clip", "complete"}
    assert "adding or removing one unit" in body["statement"]


def test_account_in_prose(call):
    code, out, _ = call("account", *SGD, "--delta", "1e-5", "--unit", "example", "--relation", "replace-one")
    assert code == 0
    assert "epsilon = 2.844 (PLD accountant; 3.112 by RDP) at delta = 1e-05" in out
    assert "replacing one example by another" in out


def test_posteriors_follow_the_ceilings(call):
    code, out, _ = call("account", *SGD, "--delta", "1e-5", "--prior", "0.5", "--prior", "0.01", "--json")
    body = json.loads(out)
    assert code == 0
    assert len(body["posteriors"]) == 8
    ceiling = {item["fpr"]: item["tpr"] for item in body["tpr_ceilings"]}
    for item in body["posteriors"]:
        odds = item["prior"] / (1 - item["prior"]) * ceiling[item["fpr"]] / item["fpr"]
        assert item["posterior"] == pytest.approx(odds / (1 + odds))
    code, _, err = call("account", *SGD, "--delta", "1e-5", "--prior", "0")
    assert code == 2
    assert "prior" in err


def test_ceilings_at_given_rates(call):
    code, out, _ = call("account", *SGD, "--delta", "1e-5", "--fpr", "0.02", "--fpr", "0.5", "--json")
    ceilings = {item["fpr"]: item["tpr"] for item in json.loads(out)["tpr_ceilings"]}
    assert code == 0
    assert list(ceilings) == [0.001, 0.01, 0.02, 0.05, 0.1, 0.5]
    assert 0.02 < ceilings[0.01] < ceilings[0.02] < ceilings[0.05]
    code, _, err = call("account", *SGD, "--delta", "1e-5", "--fpr", "1")
    assert code == 2
    assert "fpr must lie strictly between 0 and 1" in err


def test_shuffled_batches_show_what_poisson_would_have_claimed(call):
    code, out, _ = call("account", *SGD, "--delta", "1e-5", "--sampler", "shuffle", "--json")
    body = json.loads(out)
    assert code == 0
    assert body["epsilon"]["pld"] == pytest.approx(body["epsilon"]["no_amplification"], rel=1e-9)
    assert body["not_a_bound"]["poisson_assumed"] == pytest.approx(1.8282436, rel=1e-6)
    assert body["epsilon"]["pld"] > 5


def test_other_samplers_and_groups(call):
    for sampler in ("without-replacement", "none"):
        code, out, _ = call("account", *SGD, "--delta", "1e-5", "--sampler", sampler, "--json")
        assert code == 0
        assert json.loads(out)["epsilon"]["pld"] > 1.83
    code, out, _ = call("account", *SGD, "--delta", "1e-5", "--group-size", "3", "--json")
    assert code == 0
    assert json.loads(out)["epsilon"]["pld"] > 2 * 1.83
    code, out, _ = call("account", *SGD, "--delta", "1e-5", "--participation-rate", "0.5", "--json")
    assert code == 0
    assert json.loads(out)["epsilon"]["pld"] < 1.83


@pytest.fixture
def ledger_file(tmp_path):
    def write(name, **facts):
        ledger = PrivacyLedger(tmp_path / name, **facts)
        for number in range(20):
            event = ev.PoissonSampled(sampling_rate=0.05, event=ev.Gaussian(noise_multiplier=1.0))
            ledger.record(event, round=number)
        return str(tmp_path / name), ledger

    return write


def test_account_of_ledgers(call, ledger_file):
    first, ledger = ledger_file("a.jsonl", unit="client", relation="add-or-remove-one", units=1000, sampler="poisson")
    code, out, _ = call("account", "--ledger", first, "--delta", "1e-5", "--json")
    alone = json.loads(out)
    assert code == 0
    assert alone["ledger_digest"] == ledger.digest
    assert alone["unit"] == "client"
    assert {"declared", "not-checked"} <= {item["status"] for item in alone["assumptions"]}
    second, _ = ledger_file("b.jsonl", unit="client")
    code, out, _ = call("account", "--ledger", first, "--ledger", second, "--delta", "1e-5", "--json")
    both = json.loads(out)
    assert both["epsilon"]["pld"] > alone["epsilon"]["pld"]
    assert both["relation"] == "add-or-remove-one"
    code, out, _ = call("account", "--ledger", first, "--delta", "1e-5", "--group-size", "2", "--json")
    assert json.loads(out)["epsilon"]["pld"] > alone["epsilon"]["pld"]
    assert json.loads(out)["ledger_digest"] == ledger.digest


def test_account_refuses_a_delta_that_publishes_a_record(call, ledger_file):
    path, _ = ledger_file("c.jsonl", units=1000)
    code, _, err = call("account", "--ledger", path, "--delta", "1e-3")
    assert code == 2
    assert "delta must be smaller than 1/units = 0.001" in err
    code, _, err = call("account", *SGD, "--delta", "0.01", "--units", "100")
    assert code == 2


def test_account_refuses_what_has_no_bound(call, tmp_path):
    ledger = PrivacyLedger(tmp_path / "open.jsonl")
    ledger.record(ev.NonPrivate(reason="labels were published"))
    code, out, err = call("account", "--ledger", str(tmp_path / "open.jsonl"), "--delta", "1e-5", "--json")
    assert code == 3
    error = json.loads(out)["error"]
    assert error["exit_code"] == 3
    assert "NonPrivate" in error["message"]
    assert "labels were published" in err
    other = PrivacyLedger(tmp_path / "foreign.jsonl")
    other.record(ev.Unsupported(description="a query without a cost"))
    code, out, err = call("account", "--ledger", str(tmp_path / "foreign.jsonl"), "--delta", "1e-5")
    assert (code, out) == (3, "")
    assert "a query without a cost" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["account", "--delta", "1e-5"],
        ["account", "--delta", "1e-5", "--noise-multiplier", "1.0"],
        ["account", *SGD, "--delta", "0"],
        ["account", *SGD, "--delta", "1.5"],
        ["account", *SGD],
        ["account", *SGD, "--delta", "1e-5", "--sampler", "bernoulli"],
        ["account", *SGD, "--delta", "1e-5", "--sampler", "shuffle", "--participation-rate", "0.5"],
        ["account", "--noise-multiplier", "1", "--sampling-rate", "1.5", "--steps", "10", "--delta", "1e-5"],
        ["account", "--noise-multiplier", "-1", "--sampling-rate", "0.5", "--steps", "10", "--delta", "1e-5"],
        ["account", "--ledger", "missing.jsonl", "--delta", "1e-5"],
        ["calibrate", "--sampling-rate", "0.1", "--steps", "10"],
        ["calibrate", "--epsilon", "3", "--target", "mu=1", "--sampling-rate", "0.1", "--steps", "10"],
        ["calibrate", "--epsilon", "3", "--sampling-rate", "0.1", "--steps", "10"],
        ["calibrate", "--epsilon", "0", "--delta", "1e-5", "--sampling-rate", "0.1", "--steps", "10"],
        ["calibrate", "--epsilon", "nan", "--delta", "1e-5", "--sampling-rate", "0.1", "--steps", "10"],
        ["calibrate", "--epsilon", "3", "--delta", "2", "--sampling-rate", "0.1", "--steps", "10"],
        ["calibrate", "--target", "speed=3", "--delta", "1e-5", "--sampling-rate", "0.1", "--steps", "10"],
        ["calibrate", "--target", "mu=1", "--accountant", "rdp", "--sampling-rate", "0.1", "--steps", "10"],
    ],
)
def test_usage_errors_exit_with_2_and_one_json_document(call, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert code == 2, err
    assert out == ""
    code, out, _ = call(*arguments, "--json")
    assert code == 2
    assert json.loads(out)["error"]["message"]


def test_a_torn_ledger_is_accounted_for_and_said_to_be_torn(call, ledger_file):
    path, _ = ledger_file("torn.jsonl")
    with open(path, "ab") as stream:
        stream.write(b'{"body"')
    code, out, _ = call("account", "--ledger", path, "--delta", "1e-5")
    assert code == 0
    assert "ends in 7 bytes of an unfinished line" in out


def test_a_ledger_says_what_ran(call, ledger_file):
    path, _ = ledger_file("d.jsonl")
    code, _, err = call("account", "--ledger", path, "--delta", "1e-5", "--noise-multiplier", "2.0")
    assert code == 2
    assert "leave out --noise-multiplier" in err


def test_zero_noise_is_refused_with_3(call):
    code, _, err = call(
        "account", "--noise-multiplier", "0", "--sampling-rate", "0.1", "--steps", "5", "--delta", "1e-5"
    )
    assert code == 3
    assert "noise multiplier 0" in err


def test_calibrate_prints_the_keys_of_the_design(call):
    arguments = ["--delta", "1e-5", "--sampling-rate", "0.05", "--steps", "200"]
    code, out, _ = call("calibrate", "--epsilon", "3", *arguments, "--json")
    body = json.loads(out)
    assert code == 0
    assert body["schema"] == "dpaudit.calibrate/v1"
    assert 2.9999 < body["epsilon"] <= 3
    code, out, _ = call("calibrate", "--target", "epsilon=3", *arguments, "--json")
    assert json.loads(out)["noise_multiplier"] == body["noise_multiplier"]
    code, out, _ = call("calibrate", "--epsilon", "3", *arguments)
    assert float(out.split()[2]) >= body["noise_multiplier"], "what is printed is rounded up"
    code, out, _ = call("calibrate", "--epsilon", "3", *arguments, "--accountant", "rdp", "--json")
    assert json.loads(out)["noise_multiplier"] > body["noise_multiplier"]


def test_calibrate_to_mu_and_to_an_attack(call):
    arguments = ["--sampling-rate", "0.05", "--steps", "200", "--json"]
    code, out, _ = call("calibrate", "--target", "mu=0.6", *arguments)
    assert code == 0
    assert json.loads(out)["epsilon"] is None
    code, out, _ = call("calibrate", "--target", "tpr=0.05@fpr=0.01", "--delta", "1e-6", *arguments)
    body = json.loads(out)
    assert code == 0
    assert body["epsilon"] > 0
    assert body["target"] == {"fpr": 0.01, "kind": "tpr", "value": 0.05}


def test_a_contradicted_ledger_is_refused_with_what_is_left(call, ledger_file):
    path, _ = ledger_file("shuffled.jsonl", sampler="shuffle", unit="example")
    code, out, err = call("account", "--ledger", path, "--delta", "1e-5")
    assert (code, out) == (3, "")
    assert "ledger line 2: sampler shuffle ran, the accounting takes credit for poisson" in err
    assert "Without any credit for sampling, epsilon is at most" in err
    path, _ = ledger_file("divided.jsonl", denominator="realised")
    code, out, err = call("account", "--ledger", path, "--delta", "1e-5", "--json")
    assert code == 3
    assert "divided by the realised number" in json.loads(out)["error"]["message"]
    assert "at most" not in err


def test_units_are_converted_or_refused(call, ledger_file):
    examples, _ = ledger_file("examples.jsonl", unit="example")
    clients, _ = ledger_file("clients.jsonl", unit="client")
    code, _, err = call("account", "--ledger", examples, "--delta", "1e-5", "--unit", "client")
    assert code == 2
    assert "needs max_examples_per_client" in err
    code, _, err = call("account", "--ledger", clients, "--delta", "1e-5", "--unit", "example")
    assert code == 2
    assert "does not follow" in err
    code, _, err = call("account", "--ledger", clients, "--ledger", examples, "--delta", "1e-5")
    assert code == 2
    assert "different units" in err
    arguments = ["account", "--ledger", examples, "--delta", "1e-5", "--json"]
    alone = json.loads(call(*arguments)[1])
    code, out, _ = call(*arguments, "--unit", "client", "--max-examples-per-client", "3")
    body = json.loads(out)
    assert code == 0
    assert body["unit"] == "client"
    assert body["epsilon"]["pld"] > 2 * alone["epsilon"]["pld"]
    assert "adding or removing one client" in body["statement"]


def test_searches_of_hyper_parameters(call):
    arguments = ["account", *SGD, "--delta", "1e-5", "--json"]
    one = json.loads(call(*arguments)[1])
    assert one["hyperparameter_search"] is None
    assert "unless the search is in the ledger: not recorded" in one["statement"]
    code, out, _ = call(*arguments, "--trials", "4")
    four = json.loads(out)
    assert code == 0
    assert four["epsilon"]["pld"] > 1.5 * one["epsilon"]["pld"]
    assert four["hyperparameter_search"]["cost"] == "plain-composition"
    code, out, _ = call(*arguments, "--trials-drawn", "geometric:10")
    best = json.loads(out)
    assert code == 0
    assert best["epsilon"]["pld"] is None
    assert "RepeatAndSelect" in best["reasons"]["epsilon_pld"]
    assert best["epsilon"]["rdp"] == pytest.approx(4.103270656, rel=1e-6)
    assert best["hyperparameter_search"]["cost"] == "repeat-and-select"
    for wrong in (["--trials-drawn", "uniform:3"], ["--trials-drawn", "geometric"], ["--trials", "0"]):
        assert call(*arguments, *wrong)[0] == 2
    assert call(*arguments, "--trials", "3", "--trials-drawn", "poisson:3")[0] == 2


def test_calibrate_says_what_it_rests_on(call):
    arguments = ["--epsilon", "3", "--delta", "1e-5", "--sampling-rate", "0.05", "--steps", "200"]
    code, out, _ = call("calibrate", *arguments, "--unit", "client", "--json")
    body = json.loads(out)
    assert code == 0
    assert body["epsilon_no_amplification"] > 20
    known = {item["id"]: item for item in body["assumptions"]}
    assert known["unit"]["text"] == "privacy unit: client"
    assert {item["status"] for item in body["assumptions"]} >= {"declared", "not-checked", "verified"}
    text = call("calibrate", *arguments)[1]
    assert "Without any amplification by sampling, epsilon is" in text
    assert "[not checked] the ledger holds every release" in text
    text = call("calibrate", "--target", "mu=0.6", "--sampling-rate", "0.05", "--steps", "200")[1]
    assert "each unit enters each batch independently" in text


def test_calibrate_for_groups_and_searches_needs_more_noise(call):
    arguments = ["--epsilon", "3", "--delta", "1e-5", "--sampling-rate", "0.05", "--steps", "50", "--json"]

    def noise(*options):
        code, out, err = call("calibrate", *arguments, *options)
        assert code == 0, err
        return json.loads(out)["noise_multiplier"]

    assert noise("--trials", "3") > noise()
    assert noise("--trials-drawn", "geometric:10", "--accountant", "rdp") > noise("--accountant", "rdp")
    assert noise("--group-size", "2") > 1.4 * noise()
    code, _, err = call("calibrate", *arguments, "--trials-drawn", "geometric:10")
    assert code == 3
    assert "RepeatAndSelect" in err


def test_calibrate_refuses_a_delta_that_publishes_a_record(call):
    arguments = ["--epsilon", "3", "--delta", "0.01", "--sampling-rate", "0.05", "--steps", "200", "--units", "100"]
    code, _, err = call("calibrate", *arguments)
    assert code == 2
    assert "delta must be smaller than 1/units" in err
