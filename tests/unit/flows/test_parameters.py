"""Form, flags and settings say the same, because they are made of the same."""

import inspect
import subprocess
import sys

import pytest
from prefect.utilities.callables import parameter_schema

from flows.collect_dpo import collect_dpo
from flows.collect_rl import collect_rl
from flows.collect_sft import collect_sft
from rollouts.settings import CollectDPO, CollectRL, CollectSettings, CollectSFT

FLOWS = [(collect_rl, CollectRL), (collect_sft, CollectSFT), (collect_dpo, CollectDPO)]


@pytest.mark.parametrize(("flow", "model"), FLOWS, ids=lambda value: getattr(value, "name", ""))
def test_the_form_has_every_field_with_its_text_and_default(flow, model: type[CollectSettings]) -> None:
    schema = parameter_schema(flow.fn).model_dump()
    assert list(schema["properties"]) == list(model.model_fields)
    for name, field in model.model_fields.items():
        assert schema["properties"][name]["description"] == " ".join(field.description.split()), name
    assert not schema["required"]
    assert schema["properties"]["num_repeats"]["default"] == model().num_repeats
    assert schema["properties"]["limit"]["anyOf"][0]["minimum"] == 1


@pytest.mark.parametrize(("flow", "model"), FLOWS, ids=lambda value: getattr(value, "name", ""))
def test_parameters_are_flat_so_that_one_can_be_set_by_name(flow, model: type[CollectSettings]) -> None:
    assert set(inspect.signature(flow.fn).parameters) == set(model.model_fields)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from flows.command_line import collect_rl_command; collect_rl_command()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_help_explains_every_flag() -> None:
    shown = command("--help")
    assert shown.returncode == 0
    for name in CollectRL.model_fields:
        flag = f"--{name.replace('_', '-')}"
        assert flag in shown.stdout, flag
    assert "--policy.url" in shown.stdout


def test_flags_are_read_before_anything_slow_is_imported() -> None:
    code = "from flows.command_line import collect_rl_command; collect_rl_command()"
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, "--num-repeats", "0"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert shown.returncode == 2
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in shown.stderr.splitlines()}
    assert "cyclopts" in imported
    assert not imported & {"prefect", "httpx", "pyarrow", "pandas", "numpy", "aiohttp", "pyreqwest", "fsspec"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--num-repeats", "0"], "num-repeats"),
        (["--no-such-flag"], "no-such-flag"),
        (["--formats", "trl", "trl"], "each once"),
        (["--dataset", "../../etc"], "dataset"),
        (["--temperature", "nan"], "temperature"),
    ],
)
def test_a_flag_that_makes_no_sense_is_named_and_nothing_is_started(arguments: list[str], said: str) -> None:
    done = command(*arguments)
    assert done.returncode != 0
    assert said in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
