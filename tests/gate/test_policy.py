"""Policies: profiles, files, every problem at once with its line; what a file does not say is the profile's."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpaudit.errors import ConfigError, DataError
from dpaudit.policy import PROFILES, load_policy, parse_policy, policy_schema
from dpaudit.records import Unit


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_load(profile: str) -> None:
    policy = load_policy(profile)
    assert policy.profile == profile
    assert policy.waiver == ()
    assert {"DPA001", "DPA003", "DPA101"} <= set(policy.waivers.never)
    assert policy.claim.recompute


def test_profiles_are_ordered() -> None:
    strict, standard, research, demonstration = (load_policy(name) for name in PROFILES)
    assert strict.audit.min_power > standard.audit.min_power > research.audit.min_power
    assert strict.evidence.max_age_days < standard.evidence.max_age_days < research.evidence.max_age_days
    assert set(strict.audit.families) < set(standard.audit.families)
    assert len(research.audit.checks) < len(standard.audit.checks)
    assert set(standard.audit.checks) <= set(strict.audit.checks)
    assert len({policy.digest for policy in (strict, standard, research, demonstration)}) == 4
    lenient = demonstration.values.evidence.model_copy(update={"allow_configured_seed": False})
    assert demonstration.values.model_copy(update={"profile": "standard", "evidence": lenient}) == standard.values


def test_strict_never_accepts_predictable_noise() -> None:
    found = problems('profile = "strict"\n[evidence]\nallow_configured_seed = true\n')
    assert "refused by the profile strict" in found


def test_a_file_says_only_what_differs() -> None:
    policy = parse_policy('profile = "strict"\n[claim]\nepsilon = 3\nunit = "client"\n', source="x")
    strict = load_policy("strict")
    assert policy.claim.epsilon == 3
    assert policy.claim.unit == Unit.CLIENT
    assert policy.claim.require_two_accountants
    assert policy.audit == strict.audit
    assert policy.attacks == strict.attacks
    assert policy.digest != strict.digest


def test_the_digest_is_of_values_not_of_spelling() -> None:
    one = parse_policy("[claim]\nepsilon = 3\n", source="a")
    assert one.digest == parse_policy("# note\nclaim.epsilon = 3.0\n", source="b").digest
    assert one.digest != parse_policy("[claim]\nepsilon = 3.01\n", source="a").digest


def problems(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_policy(text, source="dpaudit.toml")
    return "\n".join(caught.value.problems)


def test_every_problem_is_named_at_once_with_its_line() -> None:
    text = 'profile = "strict"\n\n[audit]\nmin_powr = 0.9\nconfidence = 2\n\n[[waiver]]\nrule = "DPA103"\n'
    found = problems(text)
    assert "line 4: unknown key 'audit.min_powr'. Did you mean 'min_power'?" in found
    assert "line 5: audit.confidence" in found
    assert "line 7: missing key 'waiver.0.owner'" in found


@pytest.mark.parametrize(
    "text",
    [
        "[claim]\nepsilon = nan",
        "[claim]\nepsilon = inf",
        "[claim]\nepsilon = -1",
        "[claim]\nepsilon = true",
        '[claim]\nepsilon = "3"',
        "[claim]\ndelta = 0",
        "[claim]\ndelta = 1",
        '[claim]\nunit = "person"',
        "[claim]\nrecompute = 0",
        "[audit]\nmin_power = 0",
        "[audit]\nfamilies = []",
        '[audit]\nfamilies = ["heuristic"]',
        '[audit]\nfamilies = ["credible"]',
        "[audit]\nchecks = []",
        "[audit]\nmethods = []",
        "[audit]\ndetect_factor = 1",
        "[waivers]\nmax_days = 91",
        '[waivers]\nnever = ["DPA999"]',
        "[evidence]\nmax_age_days = 1.5",
        'profile = "lenient"',
        "schema_version = 2",
        "claim = 3",
        "[[attacks.ceiling]]\nfpr = 0.01",
        '[[attacks.ceiling]]\nfpr = 0.01\ntpr = "any"',
        "not toml",
        "a = 1\na = 2",
    ],
)
def test_wrong_policies_are_refused(text: str) -> None:
    assert problems(text)


@pytest.mark.parametrize("missing", ["rule", "reason", "ticket", "owner", "expires"])
def test_a_waiver_needs_everything(missing: str) -> None:
    keys = {
        "rule": '"DPA103"',
        "reason": '"long enough reason"',
        "ticket": '"T-1"',
        "owner": '"me"',
        "expires": "2026-12-01",
    }
    text = "[[waiver]]\n" + "\n".join(f"{k} = {v}" for k, v in keys.items() if k != missing)
    assert f"missing key 'waiver.0.{missing}'" in problems(text)


def test_lookup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_policy().source == "profile standard"
    (tmp_path / "pyproject.toml").write_text('[tool.other]\nx = 1\n[tool.dpaudit]\nprofile = "strict"\n')
    assert load_policy().profile == "strict"
    (tmp_path / "pyproject.toml").write_text("[tool.dpaudit.claim]\nepsilonn = 3\n")
    with pytest.raises(ConfigError, match=r"line 2: unknown key 'claim\.epsilonn'"):
        load_policy()
    (tmp_path / "dpaudit.toml").write_text('profile = "research"\n')
    assert load_policy().profile == "research"
    assert load_policy("strict").profile == "strict"
    for name in ("lenient", "none.toml", "."):
        with pytest.raises(DataError, match="neither a profile"):
            load_policy(name)


def test_a_file_named_like_no_profile_is_read(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("[claim]\nepsilon = 2\n")
    assert load_policy(path).claim.epsilon == 2
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError):
        load_policy(path)


def test_the_schema_is_a_schema_that_accepts_policies() -> None:
    schema = policy_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    json.dumps(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid({"profile": "strict", "claim": {"epsilon": 3.0}})
    assert not validator.is_valid({"claim": {"epsilonn": 3.0}})


toml_values = st.one_of(
    st.booleans().map(lambda value: str(value).lower()),
    st.integers(-(10**6), 10**6).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.text("abcDPA01-* ", max_size=12).map(json.dumps),
    st.just("[]"),
    st.just('["DPA101"]'),
    st.just("{}"),
)
toml_keys = st.sampled_from(
    ["epsilon", "delta", "recompute", "min_power", "never", "rule", "fpr", "tpr", "profile", "claim", "x"]
)
toml_tables = st.sampled_from(
    ["[claim]", "[audit]", "[[waiver]]", "[attacks]", "[[attacks.ceiling]]", "[waivers]", "[x]"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(toml_tables, st.dictionaries(toml_keys, toml_values, max_size=4)), max_size=4))
def test_any_text_is_a_policy_or_a_config_error(tables: list[tuple[str, dict[str, Any]]]) -> None:
    lines = [line for table, body in tables for line in (table, *(f"{key} = {value}" for key, value in body.items()))]
    try:
        policy = parse_policy("\n".join(lines), source="random")
    except ConfigError as error:
        assert error.problems  # noqa: PT017 - success is allowed too
    else:
        assert {"DPA001", "DPA003", "DPA101"} <= set(policy.waivers.never)
