import pytest
from pydantic import ValidationError

from tasks.redis_url import without_password
from tasks.settings import Settings, places


def test_the_environment_goes_before_the_file_and_the_file_before_the_default(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "manyhands" / "orchestrator.toml"
    file.parent.mkdir()
    file.write_text("concurrency = 5\nread_timeout_seconds = 7\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("ORCHESTRATOR_CONCURRENCY", "9")
    settings = Settings()
    assert (settings.concurrency, settings.read_timeout_seconds) == (9, 7)
    assert settings.connect_timeout_seconds == 10
    found = places()
    assert found["concurrency"] == "ORCHESTRATOR_CONCURRENCY"
    assert found["read_timeout_seconds"] == str(file)
    assert found["connect_timeout_seconds"] == "default"


def test_a_file_in_the_present_folder_is_not_read_for_a_server_may_have_put_it_there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    (tmp_path / "orchestrator.toml").write_text("concurrency = 5\n")
    assert Settings().concurrency == 16


def test_a_setting_that_nobody_knows_is_refused():
    with pytest.raises(ValidationError):
        Settings(reddis_url="redis://h")


def test_an_empty_variable_is_not_set(monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_REDIS_URL", "")
    assert Settings().redis_url is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CONCURRENCY", "0"),
        ("CONCURRENCY", "many"),
        ("READ_TIMEOUT_SECONDS", "inf"),
        ("READ_TIMEOUT_SECONDS", "nan"),
        ("REDIS_TIMEOUT_SECONDS", "1e10"),
        ("READ_TIMEOUT_SECONDS", "-1"),
        ("REDIS_URL", "amqp://me:hunter2@h"),
        ("VISIBILITY_TIMEOUT_SECONDS", "3600"),  # longer than what recovery may take
    ],
)
def test_nonsense_is_refused(monkeypatch, variable, value):
    monkeypatch.setenv(f"ORCHESTRATOR_{variable}", value)
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hunter2@h:6379/0", "redis://h:6379/0"),
        ("rediss://me:p%40ss@h/0?ssl_cert_reqs=none", "rediss://h/0"),
        ("redis://h/0", "redis://h/0"),
        ("redis://:p@ss/w?rd@h/0", "redis://h/0"),
    ],
)
def test_a_redis_url_is_shown_without_its_password(url, shown):
    assert without_password(url) == shown
