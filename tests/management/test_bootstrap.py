"""The first set-up: what it makes, what it prints, and that it can run at every start."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import override_settings

from hubs.management.commands.bootstrap import SDK_INSTALL, SDK_SNIPPET
from hubs.models import AccessKey, Hub, RoleGrant
from tests.management.conftest import Run
from tests.running import PATIENCE, Service

pytestmark = pytest.mark.django_db

CONNECTION_STRING = re.compile(r"^Endpoint=http://localhost:8080;AccessKey=[A-Za-z0-9_-]{64};Version=1\.0;$", re.M)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADMIN_USERNAME", raising=False)
    monkeypatch.delenv("ADMIN_PASSWORD", raising=False)


def everything() -> list[object]:
    """All that the set-up makes, in a form to compare."""
    return [
        sorted(model.objects.values_list())  # type: ignore[attr-defined]
        for model in (User, Hub, AccessKey, RoleGrant)
    ]


def grants_of(hub: str) -> set[tuple[str, str]]:
    return {(grant.who, grant.role_string) for grant in RoleGrant.objects.filter(hub__name=hub)}


def test_it_makes_keys_hubs_and_grants(run: Run) -> None:
    run("bootstrap")
    assert AccessKey.objects.of_service().count() == 2
    assert Hub.objects.get(name="chat").anonymous_user_ids
    assert not Hub.objects.get(name="stream").anonymous_user_ids
    assert grants_of("chat") == {("anonymous", "webpubsub.joinLeaveGroup"), ("anonymous", "webpubsub.sendToGroup")}
    assert grants_of("stream") == {("anonymous", "webpubsub.joinLeaveGroup.stream")}


@override_settings(WEBPUBSUB={"PUBLIC_ENDPOINTS": ["http://localhost:8080"]})
def test_it_prints_the_connection_string_on_a_line_of_its_own(run: Run) -> None:
    printed = run("bootstrap").out
    primary = AccessKey.objects.get(hub=None, slot="primary").text
    assert CONNECTION_STRING.findall(printed) == [f"Endpoint=http://localhost:8080;AccessKey={primary};Version=1.0;"]
    for path in ("/", "/demos/chat/", "/demos/logstream/", "/admin/"):
        assert f"  http://localhost:8080{path} " in printed
    assert f"\n{SDK_INSTALL}\n" in printed
    assert "\x1b" not in printed, "no colours where nobody looks"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


PUBLIC = {"PUBLIC_ENDPOINTS": ["https://pubsub.example.com/prefix", "http://localhost:8080"]}


@override_settings(WEBPUBSUB=PUBLIC)
def test_a_public_installation_puts_no_secret_into_a_log(run: Run) -> None:
    printed = run("bootstrap").out
    keys = [key.text for key in AccessKey.objects.of_service()]
    assert not any(key in printed for key in keys)
    assert "\nEndpoint=https://pubsub.example.com/prefix;AccessKey=********;Version=1.0;\n" in printed
    assert "manage.py webpubsub key show" in printed
    assert any(key in run("webpubsub", "key", "show").out for key in keys)
    admin = User.objects.get(username="admin", is_superuser=True)
    assert not admin.has_usable_password()
    assert "none yet; set one: manage.py changepassword admin" in printed
    assert "import json" not in printed


@override_settings(HOST="0.0.0.0")
def test_nor_does_one_that_listens_on_every_address(run: Run) -> None:
    printed = run("bootstrap").out
    assert "\nEndpoint=http://localhost:8080;AccessKey=********;Version=1.0;\n" in printed
    assert "none yet; set one: manage.py changepassword admin" in printed


@override_settings(WEBPUBSUB=PUBLIC)
def test_a_password_that_was_chosen_serves_a_public_installation(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_PASSWORD", "bugs in the relay 1947")
    assert "as ADMIN_PASSWORD says" in run("bootstrap").out
    assert authenticate(username="admin", password="bugs in the relay 1947") is not None


@override_settings(WEBPUBSUB=PUBLIC)
def test_the_first_public_endpoint_is_the_one_that_is_told_in_a_terminal() -> None:
    terminal = Terminal()
    call_command("bootstrap", stdout=terminal, no_color=True)
    printed = terminal.getvalue()
    assert re.search(r"password   (\S+) \(shown this once\)", printed)
    assert "\nEndpoint=https://pubsub.example.com/prefix;AccessKey=" in printed
    assert "  https://pubsub.example.com/prefix/demos/chat/ " in printed
    assert "localhost" not in printed


def test_the_password_is_shown_once_and_works(run: Run) -> None:
    printed = run("bootstrap").out
    password = re.search(r"password   (\S+) \(shown this once\)", printed)
    assert password
    assert "manage.py changepassword admin" in printed
    user = authenticate(username="admin", password=password[1])
    assert user is not None
    assert user.is_superuser
    again = run("bootstrap").out
    assert password[1] not in again
    assert "password" not in again


def test_running_again_loses_and_doubles_nothing(run: Run) -> None:
    run("bootstrap")
    before = everything()
    printed = run("bootstrap").out
    assert everything() == before
    assert printed.startswith("Hubwire was set up before")


def test_what_an_operator_removed_stays_removed(run: Run) -> None:
    run("bootstrap")
    RoleGrant.objects.all().delete()
    Hub.objects.get(name="stream").delete()
    Hub.objects.filter(name="chat").update(anonymous_user_ids=False)
    run("bootstrap")
    assert not RoleGrant.objects.exists()
    assert [hub.name for hub in Hub.objects.all()] == ["chat", "moderated"]
    assert not Hub.objects.get(name="chat").anonymous_user_ids
    Hub.objects.all().delete()
    run("bootstrap")
    assert not Hub.objects.exists()


def test_a_chat_hub_of_the_operators_own_gets_no_grants(run: Run) -> None:
    Hub.objects.create(name="chat")
    run("bootstrap")
    assert not RoleGrant.objects.exists()
    assert not Hub.objects.get(name="chat").anonymous_user_ids


def test_a_missing_key_is_made_and_the_other_kept(run: Run) -> None:
    run("bootstrap")
    primary = AccessKey.objects.get(hub=None, slot="primary").text
    AccessKey.objects.filter(slot="secondary").delete()
    run("bootstrap")
    assert AccessKey.objects.get(hub=None, slot="primary").text == primary
    assert AccessKey.objects.of_service().count() == 2


def test_the_environment_names_the_administrator(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_USERNAME", "grace")
    monkeypatch.setenv("ADMIN_PASSWORD", "bugs in the relay 1947")
    printed = run("bootstrap")
    assert authenticate(username="grace", password="bugs in the relay 1947") is not None
    assert "bugs in the relay" not in printed.out + printed.err
    assert "manage.py changepassword grace" in printed.out
    assert printed.err == ""


def test_a_weak_password_is_taken_with_a_warning(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_PASSWORD", "12345")
    assert run("bootstrap").err.startswith("Warning: ADMIN_PASSWORD is weak: ")
    assert authenticate(username="admin", password="12345") is not None


def test_a_superuser_who_is_there_is_enough(run: Run) -> None:
    get_user_model().objects.create_superuser("root", password="x")
    assert "Administrator" not in run("bootstrap").out
    assert User.objects.count() == 1


def test_a_user_of_that_name_is_not_promoted(run: Run) -> None:
    User.objects.create_user("admin", password="x")
    printed = run("bootstrap")
    assert "there is a user admin" in printed.err
    assert "createsuperuser" in printed.err
    assert "Endpoint=" in printed.out, "the service can start all the same"
    assert not User.objects.filter(is_superuser=True).exists()


def test_an_impossible_user_name_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_USERNAME", "grace hopper")
    with pytest.raises(CommandError, match="valid username"):
        run("bootstrap")
    assert not AccessKey.objects.exists(), "all or nothing"


def test_a_changed_secret_is_explained(run: Run) -> None:
    run("bootstrap")
    with override_settings(SECRET_KEY="another"), pytest.raises(CommandError, match="SECRET_KEY_FALLBACKS"):
        run("bootstrap")


def test_the_snippet_is_short() -> None:
    assert len(SDK_SNIPPET.splitlines()) <= 15


def test_an_empty_database_is_told_to_migrate(data_dir: Path) -> None:
    done = Service(data_dir).manage("bootstrap", check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "Error: The database is not set up for this version. Run: manage.py migrate"


def test_the_printed_snippet_works_as_printed(service: Service, tmp_path: Path) -> None:
    printed = service.manage("bootstrap").stdout
    code = printed[printed.index("import json\n") :]
    (tmp_path / "first.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "first.py"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, env=service.env
    )
    assert done.returncode == 0, done.stderr
    connected, joined, message, sent = done.stdout.splitlines()
    assert '"event":"connected"' in connected
    assert '"ackId":1' in joined
    assert "It works!" in message
    assert '"ackId":2' in sent
