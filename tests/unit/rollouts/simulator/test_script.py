import json
from pathlib import Path
from statistics import quantiles

import pytest
from pydantic import ValidationError

from rollouts.errors import ConfigError
from rollouts.simulator.script import ConstantLatency, HangFault, LogNormalLatency, Script, SimpleFault, StatusFault


def test_a_script_without_settings_is_always_well_and_at_once() -> None:
    script = Script()
    assert {script.fault(number) for number in range(100)} == {None}
    assert {script.latency_s(number) for number in range(100)} == {0.0}


def test_listed_requests_meet_the_fault_and_no_others() -> None:
    script = Script(faults=(SimpleFault(kind="reset", requests={2, 5}),))
    assert [number for number in range(10) if script.fault(number)] == [2, 5]


def test_the_first_of_several_faults_happens() -> None:
    script = Script(faults=(HangFault(requests={1}), StatusFault(status=500, probability=1.0)))
    assert [fault.kind for number in range(3) if (fault := script.fault(number))] == ["status", "hang", "status"]


def test_chances_follow_from_seed_and_number_alone() -> None:
    faults = (SimpleFault(kind="close", probability=0.3), SimpleFault(kind="html_200", probability=0.3))
    one, same, other = Script(seed=1, faults=faults), Script(seed=1, faults=faults), Script(seed=2, faults=faults)
    forwards = [one.fault(number) for number in range(1000)]
    backwards = [same.fault(number) for number in reversed(range(1000))]
    assert forwards == backwards[::-1]
    assert forwards != [other.fault(number) for number in range(1000)]
    kinds = [fault.kind for fault in forwards if fault]
    assert 240 < kinds.count("close") < 360
    assert 150 < kinds.count("html_200") < 270


def test_log_normal_latencies_have_the_given_quantiles() -> None:
    script = Script(latency=LogNormalLatency(median_s=0.2, p99_s=2.0))
    drawn = quantiles([script.latency_s(number) for number in range(5000)], n=100)
    assert drawn[49] == pytest.approx(0.2, rel=0.1)
    assert drawn[98] == pytest.approx(2.0, rel=0.25)
    assert script.latency_s(17) == script.latency_s(17)


def test_a_script_is_read_from_json(tmp_path: Path) -> None:
    file = tmp_path / "script.json"
    settings = {
        "seed": 3,
        "latency": {"kind": "constant", "seconds": 0.5},
        "faults": [{"kind": "status", "status": 429, "retry_after": "soon", "requests": [0, 1]}],
        "max_concurrent": 4,
    }
    file.write_text(json.dumps(settings))
    script = Script.load(file)
    assert script.latency == ConstantLatency(seconds=0.5)
    assert script.fault(1) == StatusFault(status=429, retry_after="soon", requests={0, 1})
    assert Script.model_validate_json(script.model_dump_json()) == script


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"latency": {"kind": "log_normal", "median_s": 2, "p99_s": 1}}', "p99_s must be at least"),
        ('{"faults": [{"kind": "status", "status": 99, "probability": 1}]}', "status"),
        ('{"faults": [{"kind": "explode", "probability": 1}]}', "explode"),
        ('{"colour": "blue"}', "colour"),
        ("not json", "JSON"),
    ],
)
def test_a_script_with_a_mistake_is_refused_with_the_field_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "script.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=named):
        Script.load(file)


def test_a_missing_script_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json"):
        Script.load(tmp_path / "none.json")


def test_a_fault_that_could_never_happen_is_refused() -> None:
    with pytest.raises(ValidationError, match="never happens"):
        SimpleFault(kind="reset")
