"""Blocks as Prefect wants them, and what they build."""

import pytest
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from blocks import ArtifactStore, PolicyServer
from blocks.artifact_store import saved_store, store_of
from blocks.policy_server import endpoints_of
from rollouts.errors import ConfigError
from rollouts.settings import PolicyAddress


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("block", [PolicyServer, ArtifactStore])
class TestBlockStandards(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, block):
        return block

    def test_has_a_valid_image(self, block):
        """Blocks have no logo, so nothing is fetched from the network."""
        assert block._logo_url is None


def test_what_an_address_sets_wins_over_the_block() -> None:
    server = PolicyServer(url="http://a:1/v1", model="m", version="v1", api_key=SecretStr("k"))
    assert server.endpoints(PolicyAddress(block="x"))[0].url == "http://a:1/v1"
    assert server.endpoints(PolicyAddress(block="x", url="embedded", model=None))[0].url == "http://a:1/v1"
    (endpoint,) = server.endpoints(PolicyAddress(block="x", model="other"))
    assert (endpoint.url, endpoint.model, endpoint.version) == ("http://a:1/v1", "other", "v1")
    assert endpoint.api_key is not None
    assert endpoint.api_key.get_secret_value() == "k"


def test_the_key_of_a_block_goes_to_no_other_url() -> None:
    server = PolicyServer(url="http://a:1/v1", model="m", api_key=SecretStr("k"))
    with pytest.raises(ConfigError, match="exclude each other"):
        server.endpoints(PolicyAddress(block="x", url="http://b:1/v1"))


def test_only_a_variable_that_is_named_for_it_is_taken_for_a_key() -> None:
    with pytest.raises(ValidationError, match="api_key_env"):
        PolicyAddress(api_key_env="AWS_SECRET_ACCESS_KEY")


@pytest.mark.parametrize("key", ["sk-1\n", "  sk-1", "sk-1"])
def test_white_space_around_a_key_is_no_part_of_it(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLICY_API_KEY", key)
    (endpoint,) = endpoints_of(PolicyAddress(url="http://a:1/v1", model="m"))
    assert endpoint.api_key is not None
    assert endpoint.api_key.get_secret_value() == "sk-1"


def test_a_key_that_cannot_stand_in_a_header_is_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLICY_API_KEY", "sk-1\r\nX-Evil: 1")
    with pytest.raises(ConfigError, match="POLICY_API_KEY") as caught:
        endpoints_of(PolicyAddress(url="http://a:1/v1", model="m"))
    assert "sk-1" not in str(caught.value)


def test_the_key_comes_from_the_environment_and_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "sk-very-secret")
    (endpoint,) = endpoints_of(PolicyAddress(url="http://a:1/v1", model="m", api_key_env="MY_API_KEY"))
    assert endpoint.api_key is not None
    assert "sk-very-secret" not in repr(endpoint)


def test_the_url_stands_in_for_a_version_that_was_not_given() -> None:
    assert endpoints_of(PolicyAddress(url="http://a:1/v1", model="m"))[0].version == "http://a:1/v1"
    assert endpoints_of(PolicyAddress(url="http://a:1/v1", model="m", version="step-10"))[0].version == "step-10"


def test_the_urls_of_several_servers_stand_in_for_a_version_in_any_order() -> None:
    one = endpoints_of(PolicyAddress(urls=["http://b:1/v1", "http://a:1/v1/"], weights=[3, 1], model="m"))
    other = endpoints_of(PolicyAddress(urls=["http://a:1/v1", "http://b:1/v1"], model="m"))
    assert [(endpoint.url, endpoint.weight) for endpoint in one] == [("http://b:1/v1", 3.0), ("http://a:1/v1", 1.0)]
    assert {endpoint.version for endpoint in [*one, *other]} == {"http://a:1/v1 http://b:1/v1"}


def test_a_block_holds_one_server_or_several_of_one_key() -> None:
    block = PolicyServer(urls=["http://a:1/v1", "http://b:1/v1"], model="m", api_key=SecretStr("k"))
    endpoints = block.endpoints(PolicyAddress(block="x"))
    assert [endpoint.url for endpoint in endpoints] == ["http://a:1/v1", "http://b:1/v1"]
    assert all(endpoint.api_key is not None for endpoint in endpoints)
    with pytest.raises(ConfigError, match="a URL or URLs"):
        PolicyServer(model="m").endpoints(PolicyAddress(block="x"))
    with pytest.raises(ConfigError, match="as many as"):
        PolicyServer(urls=["http://a:1/v1"], weights=[1, 2], model="m").endpoints(PolicyAddress(block="x"))


@pytest.mark.parametrize("url", ["a:1/v1", "http://u:p@a/v1", "http://a/v1?key=1", "ftp://a/v1"])
def test_a_url_that_cannot_be_one_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises((ConfigError, ValidationError), match=r"must (look like|hold no)") as caught:
        endpoints_of(PolicyAddress(url=url, model="m"))
    assert url not in str(caught.value)


@pytest.mark.usefixtures("prefect_server")
def test_blocks_are_found_by_name(tmp_path) -> None:
    ArtifactStore(root=str(tmp_path)).save("here", overwrite=True)
    PolicyServer(url="http://a:1/v1", model="m", api_key=SecretStr("k")).save("there", overwrite=True)
    assert store_of("artifact-store/here").root == str(tmp_path)
    (endpoint,) = endpoints_of(PolicyAddress(block="there"))
    assert (endpoint.url, endpoint.model) == ("http://a:1/v1", "m")
    assert endpoint.api_key is not None
    with pytest.raises(ConfigError, match="no policy-server block named 'nowhere'"):
        endpoints_of(PolicyAddress(block="nowhere"))
    with pytest.raises(ConfigError, match="no artifact-store block named 'nowhere'"):
        saved_store("artifact-store/nowhere")


def test_a_store_keeps_results_and_says_when_there_is_none(tmp_path) -> None:
    store = ArtifactStore(root=str(tmp_path))
    store.write_path("generate-1", b"{}")
    assert store.read_path("generate-1") == b"{}"
    assert (tmp_path / "store/results/generate-1").exists()
    with pytest.raises(ValueError, match="no result"):
        store.read_path("generate-2")
