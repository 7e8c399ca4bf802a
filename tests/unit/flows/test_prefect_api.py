"""A command starts a server only where Prefect knows of none, and what it looks at first is only a guess."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.prefect_api import may_name_a_server

NOBODY = "http://127.0.0.1:9/api"


def test_an_empty_home_and_folder_name_no_server(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\ndependencies = ['prefect']\n")
    assert not may_name_a_server({"PREFECT_HOME": str(tmp_path / "home")}, tmp_path)
    assert not may_name_a_server({"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_API_URL": ""}, tmp_path)


@pytest.mark.parametrize("variable", ["PREFECT_API_URL", "PREFECT_PROFILE"])
def test_the_environment_may_name_a_server(variable: str, tmp_path: Path) -> None:
    assert may_name_a_server({"PREFECT_HOME": str(tmp_path), variable: "local"}, tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("home/profiles.toml", "active = 'mine'"),
        ("work/prefect.toml", "[api]"),
        ("work/.env", "PREFECT_API_URL=..."),
        ("work/pyproject.toml", "[tool.prefect.api]\nurl = '...'"),
    ],
)
def test_every_file_that_prefect_reads_may_name_a_server(file: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text(content)
    assert may_name_a_server({"PREFECT_HOME": str(tmp_path / "home")}, tmp_path / "work")


def test_profiles_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("active = 'mine'")
    environment = {"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_PROFILES_PATH": str(tmp_path / "mine.toml")}
    assert may_name_a_server(environment, tmp_path)


def processes_beside(environment: dict[str, str], home: Path) -> list[str]:
    """Processes that a command has started by the time its flow would begin."""
    code = (
        "import os; from pathlib import Path\n"
        "from flows.prefect_api import prefect_api\n"
        "with prefect_api('flows.parameters'):\n"
        "    print(Path(f'/proc/self/task/{os.getpid()}/children').read_text().split())\n"
        "    from prefect.settings import PREFECT_API_URL\n"
        "    print(PREFECT_API_URL.value())\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    clean |= {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, cwd=home, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("variable", ["PREFECT_API_URL", "prefect_api_url"])
def test_beside_a_server_of_the_users_no_other_one_stays(variable: str, tmp_path: Path) -> None:
    # Prefect reads variables of either case. The second is what a guess does not see: that server starts, and is stopped.
    assert processes_beside({variable: NOBODY}, tmp_path) == ["[]", NOBODY]
