"""The agent's settings: command line over environment (DCOPS_AGENT_*) over file (TOML) over default."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

DEFAULT_FILE = Path("/etc/dcops/agent.toml")
ENV_PREFIX = "DCOPS_AGENT_"


class BadSetting(Exception):
    """A setting that cannot be used; the message says which, why, and what would do."""


@dataclass(frozen=True)
class Config:
    """Intervals and deadlines in seconds, sizes in MiB. `metrics_port` 0: no /metrics."""

    state_dir: Path = Path("/var/lib/dcops-agent")
    gpu_sample_s: float = 1.0
    gpu_health_s: float = 15.0
    node_sample_s: float = 1.0
    state_s: float = 60.0
    gpu_deadline_s: float = 10.0
    spool_mib: int = 2048
    metrics_port: int = 0
    kernel_log: bool = True
    log_level: str = "info"

    @property
    def intervals_s(self) -> dict[str, float]:
        """Seconds between readings, by table name, and `state`."""
        return {
            "gpu_sample": self.gpu_sample_s,
            "gpu_health": self.gpu_health_s,
            "node_sample": self.node_sample_s,
            "state": self.state_s,
        }


@dataclass(frozen=True)
class _Rule:
    help: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()


RULES: dict[str, _Rule] = {
    "state_dir": _Rule("folder for the node's key, its identity and what is not sent yet"),
    "gpu_sample_s": _Rule("seconds between samples of the GPUs", 0.1, 3600),
    "gpu_health_s": _Rule("seconds between readings of the GPUs' error counters", 1, 3600),
    "node_sample_s": _Rule("seconds between samples of the host", 0.1, 3600),
    "state_s": _Rule("seconds between lists of processes", 1, 3600),
    "gpu_deadline_s": _Rule("seconds until a silent GPU driver counts as hung", 1, 600),
    "spool_mib": _Rule("disk space for metrics that wait to be sent, in MiB", 16, 1 << 20),
    "metrics_port": _Rule("port of /metrics on 127.0.0.1; 0 opens none", 0, 65535),
    "kernel_log": _Rule("read XIDs and link errors from the kernel log: true or false"),
    "log_level": _Rule("how much to log", choices=("debug", "info", "warning", "error")),
}


def load(
    options: Mapping[str, str | None], environment: Mapping[str, str], file: Path | None
) -> Config:
    """Return the settings. Raises BadSetting.

    options: what the command line gives, None where it gives nothing. file: None reads DEFAULT_FILE if there is one.
    """
    config = Config()
    config = _with_file(config, file)
    for name in RULES:
        text = environment.get(ENV_PREFIX + name.upper())
        if text is not None:
            config = _with(config, name, text, ENV_PREFIX + name.upper())
        option = options.get(name)
        if option is not None:
            config = _with(config, name, option, "--" + name.replace("_", "-"))
    return config


def _with_file(config: Config, file: Path | None) -> Config:
    path = file or DEFAULT_FILE
    if file is None and not path.exists():
        return config
    import tomllib  # only where there is a file: a node without one need not load it

    try:
        with path.open("rb") as stream:
            values = tomllib.load(stream)
    except OSError as error:
        raise BadSetting(f"The settings file {path} cannot be read: {error.strerror}.") from error
    except tomllib.TOMLDecodeError as error:
        raise BadSetting(f"The settings file {path} is not valid TOML: {error}.") from error
    for name, value in values.items():
        if name not in RULES:
            known = ", ".join(RULES)
            raise BadSetting(f"{path} has an unknown setting {name!r}. Known are: {known}.")
        config = _with(config, name, value, f"{name} in {path}")
    return config


def _with(config: Config, name: str, value: Any, where: str) -> Config:
    kind = next(field.type for field in fields(Config) if field.name == name)
    return replace(config, **{name: _converted(kind, RULES[name], value, where)})


def _converted(kind: Any, rule: _Rule, value: Any, where: str) -> Any:
    if kind is Path:
        return Path(os.path.abspath(str(value)))
    if kind is bool:
        return _switch(value, where)
    if kind is str:
        return _choice(rule, str(value), where)
    return _number(kind, rule, value, where)


def _number(kind: type[int] | type[float], rule: _Rule, value: Any, where: str) -> int | float:
    try:
        number = kind(value)
    except (TypeError, ValueError):
        number = None
    if number is None or isinstance(value, bool) or not rule.low <= number <= rule.high:
        noun = "a whole number" if kind is int else "a number"
        raise BadSetting(
            f"{where} must be {noun} from {rule.low:g} to {rule.high:g}, not {value!r}."
        )
    return number


def _switch(value: Any, where: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    word = str(value).lower()
    if word not in words:
        raise BadSetting(f"{where} must be true or false, not {value!r}.")
    return words[word]


def _choice(rule: _Rule, value: str, where: str) -> str:
    if value not in rule.choices:
        raise BadSetting(f"{where} must be one of {', '.join(rule.choices)}, not {value!r}.")
    return value
