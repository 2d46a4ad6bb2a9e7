"""Settings: who wins, and one clear sentence for each that cannot be used."""

from pathlib import Path

import pytest

from agents.config import RULES, BadSetting, Config, load


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "agent.toml"

    def write(text):
        path.write_text(text)
        return path

    return write


def test_every_setting_has_a_rule():
    assert set(RULES) == set(Config.__dataclass_fields__)


def test_defaults_pass_their_own_rules(file):
    lines = []
    for name in RULES:
        value = getattr(Config(), name)
        text = str(value).lower() if isinstance(value, bool) else value
        quoted = f'"{text}"' if isinstance(value, str | Path) else text
        lines.append(f"{name} = {quoted}")
    assert load({}, {}, file("\n".join(lines))) == Config()


def test_command_line_over_environment_over_file(file):
    path = file("gpu_sample_s = 2\nnode_sample_s = 2\nstate_s = 2\n")
    environment = {"DCOPS_AGENT_NODE_SAMPLE_S": "3", "DCOPS_AGENT_STATE_S": "3"}
    config = load({"state_s": "4"}, environment, path)
    assert (config.gpu_sample_s, config.node_sample_s, config.state_s) == (2, 3, 4)
    assert config.gpu_health_s == Config().gpu_health_s


def test_a_folder_becomes_absolute():
    assert load({"state_dir": "here"}, {}, None).state_dir.is_absolute()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gpu_sample_s": "fast"}, ["--gpu-sample-s", "a number", "'fast'"]),
        ({"gpu_sample_s": "0"}, ["0.1 to 3600"]),
        ({"gpu_sample_s": "nan"}, ["'nan'"]),
        ({"metrics_port": "70000"}, ["--metrics-port", "whole number", "65535"]),
        ({"metrics_port": "1.5"}, ["whole number"]),
        ({"kernel_log": "perhaps"}, ["--kernel-log", "true or false"]),
        ({"log_level": "loud"}, ["--log-level", "debug, info, warning, error"]),
    ],
)
def test_a_bad_value_is_one_sentence_that_says_what_would_do(options, words):
    with pytest.raises(BadSetting) as caught:
        load(options, {}, None)
    message = str(caught.value)
    assert all(word in message for word in words)
    assert "\n" not in message


def test_the_sentence_names_the_variable():
    with pytest.raises(BadSetting, match="DCOPS_AGENT_SPOOL_MIB must be"):
        load({}, {"DCOPS_AGENT_SPOOL_MIB": "-1"}, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gpu_sample_s = \n", "not valid TOML"),
        ("gpu_samples = 1\n", "unknown setting 'gpu_samples'"),
        ("gpu_sample_s = true\n", "gpu_sample_s in"),
        ("gpu_sample_s = [1]\n", "must be a number"),
    ],
)
def test_a_bad_file_is_named(file, text, words):
    path = file(text)
    with pytest.raises(BadSetting, match=words) as caught:
        load({}, {}, path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_asked_for_must_be_there(tmp_path):
    with pytest.raises(BadSetting, match="cannot be read"):
        load({}, {}, tmp_path / "none.toml")
