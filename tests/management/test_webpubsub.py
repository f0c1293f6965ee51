"""`manage.py webpubsub …`: every command's effect, its JSON, its table, and what it says to wrong input."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jwt
import pytest
from django.core.management.base import CommandError
from django.test import override_settings

from hubs import hub_settings
from hubs.models import AccessKey, Hub, RoleGrant
from tests.management.conftest import Run
from tests.running import PATIENCE, ROOT, Service

pytestmark = pytest.mark.django_db


@pytest.fixture
def keys() -> dict[str, str]:
    return {key.slot: key.text for key in AccessKey.objects.ensure_pair()}


# Keys


@override_settings(WEBPUBSUB={"PUBLIC_ENDPOINTS": ["https://pubsub.example.com/"]})
def test_key_show_has_azures_names(webpubsub: Run, keys: dict[str, str]) -> None:
    assert webpubsub("key", "show", "--output", "json").json == {
        f"{slot}{name}": form.format(key=key)
        for slot, key in keys.items()
        for name, form in {
            "Key": "{key}",
            "ConnectionString": "Endpoint=https://pubsub.example.com;AccessKey={key};Version=1.0;",
        }.items()
    }


def test_key_show_for_people_keeps_each_value_in_one_piece(webpubsub: Run, keys: dict[str, str]) -> None:
    lines = webpubsub("key", "show").out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "Primary key",
        "Primary connection string",
        "Secondary key",
        "Secondary connection string",
    ]
    assert lines[0].split()[-1] == keys["primary"]
    assert lines[1].split()[-1] == f"Endpoint=http://localhost:8080;AccessKey={keys['primary']};Version=1.0;"


def test_the_line_that_azures_tutorials_print_works(webpubsub: Run, keys: dict[str, str]) -> None:
    line = "key show -n my-service -g my-group --query primaryConnectionString --output tsv"
    printed = webpubsub(*line.split()).out
    assert printed == f"Endpoint=http://localhost:8080;AccessKey={keys['primary']};Version=1.0;\n"


@pytest.mark.parametrize("option", ["--key", "--key-type"])
@pytest.mark.parametrize(("slot", "other"), [("primary", "secondary"), ("secondary", "primary")])
def test_key_regenerate_replaces_one_key(
    webpubsub: Run, keys: dict[str, str], option: str, slot: str, other: str
) -> None:
    shown = webpubsub("key", "regenerate", option, slot.capitalize(), "-o", "json").json
    assert shown[f"{slot}Key"] != keys[slot]
    assert shown[f"{other}Key"] == keys[other]
    assert AccessKey.objects.get(slot=slot).text == shown[f"{slot}Key"]


def test_a_hub_gets_keys_of_its_own(webpubsub: Run, keys: dict[str, str]) -> None:
    Hub.objects.create(name="own")
    with pytest.raises(CommandError, match=r"no keys of its own.*key regenerate --key primary --hub own"):
        webpubsub("key", "show", "--hub", "own")
    made = webpubsub("key", "regenerate", "--key", "primary", "--hub", "OWN", "-o", "json").json
    assert webpubsub("key", "show", "--hub", "own", "-o", "json").json == made
    assert set(made) == {"primaryKey", "secondaryKey", "primaryConnectionString", "secondaryConnectionString"}
    assert not set(made.values()) & set(keys.values())
    assert webpubsub("key", "show", "-o", "json").json["primaryKey"] == keys["primary"]
    again = webpubsub("key", "regenerate", "--key", "secondary", "--hub", "own", "-o", "json").json
    assert again["primaryKey"] == made["primaryKey"]
    assert again["secondaryKey"] != made["secondaryKey"]


def test_one_key_of_two_is_shown(webpubsub: Run, keys: dict[str, str]) -> None:
    AccessKey.objects.filter(slot="secondary").delete()
    shown = webpubsub("key", "show", "-o", "json").json
    assert shown["primaryKey"] == keys["primary"]
    assert shown["secondaryKey"] is None
    assert "(none)" in webpubsub("key", "show").out


def test_without_keys_bootstrap_is_named(webpubsub: Run) -> None:
    for command in (["key", "show"], ["key", "regenerate", "--key", "primary"], ["client", "url", "--hub", "chat"]):
        with pytest.raises(CommandError, match=r"manage\.py bootstrap"):
            webpubsub(*command)


def test_regenerating_steps_the_version_that_running_processes_watch(webpubsub: Run, keys: dict[str, str]) -> None:
    before = hub_settings.SettingsVersion.read()
    webpubsub("key", "regenerate", "--key", "primary")
    assert hub_settings.SettingsVersion.read() > before


# Hubs

NAMINGS = [
    ["--hub-name", "News"],
    ["--hub", "news"],
    ["--name", "news"],
    ["-n", "NEWS"],
    ["news"],
    ["-n", "my-service", "-g", "my-group", "--hub-name", "news"],
    ["-n", "my-service", "--hub-name", "news", "--subscription", "mine"],
    ["news", "--hub-name", "NEWS"],
]


@pytest.mark.parametrize("naming", NAMINGS, ids=" ".join)
def test_a_hub_is_named_in_any_of_the_ways_people_try(webpubsub: Run, naming: list[str]) -> None:
    assert webpubsub("hub", "create", *naming, "-o", "json").json["name"] == "news"
    assert webpubsub("hub", "update", *naming, "--allow-anonymous", "true", "-o", "json").json["name"] == "news"
    assert webpubsub("hub", "show", *naming, "-o", "json").json["name"] == "news"
    webpubsub("hub", "delete", *naming, "--yes")
    assert not Hub.objects.exists()


def test_hub_json_has_azures_shape(webpubsub: Run) -> None:
    shown = webpubsub("hub", "create", "--hub-name", "chat", "--allow-anonymous", "true", "-o", "json").json
    times = shown.pop("systemData")
    assert shown == {
        "name": "chat",
        "properties": {
            "anonymousConnectPolicy": "allow",
            "anonymousUserIdPolicy": "deny",
            "eventHandlers": [],
            "eventListeners": [],
        },
        "handlersInCode": [],
    }
    assert set(times) == {"createdAt", "lastModifiedAt"}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", time) for time in times.values())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (False, False)),
        (["--allow-anonymous"], (True, False)),
        (["--allow-anonymous", "true"], (True, False)),
        (["--allow-anonymous", "YES"], (True, False)),
        (["--allow-anonymous", "false"], (False, False)),
        (["--allow-anonymous-user-ids", "true"], (False, True)),
        (["--allow-anonymous", "1", "--allow-anonymous-user-ids", "0"], (True, False)),
    ],
)
def test_hub_create_sets_flags(webpubsub: Run, words: list[str], expected: tuple[bool, bool]) -> None:
    webpubsub("hub", "create", "--hub-name", "chat", *words)
    hub = Hub.objects.get(name="chat")
    assert (hub.anonymous_connect, hub.anonymous_user_ids) == expected


def test_hub_update_changes_what_is_named_and_no_more(webpubsub: Run) -> None:
    Hub.objects.create(name="chat", anonymous_connect=True, anonymous_user_ids=True)
    webpubsub("hub", "update", "chat", "--allow-anonymous", "false")
    hub = Hub.objects.get()
    assert (hub.anonymous_connect, hub.anonymous_user_ids) == (False, True)


def test_hub_list_is_a_table(webpubsub: Run) -> None:
    hub = Hub.objects.create(name="chat", anonymous_user_ids=True)
    Hub.objects.create(name="a" * 100)
    AccessKey.objects.ensure_pair(hub)
    RoleGrant.objects.create(hub=hub, who="anonymous", role="sendToGroup")
    heading, rule, first, second = webpubsub("hub", "list").out.splitlines()
    assert heading.split("   ")[0] == "Name"
    assert set(rule) == {"─"}
    assert first.split()[0] == "a" * 100, "in a pipe nothing is cut or wrapped"
    assert second.split()[:6] == ["chat", "no", "yes", "0", "0", "2"]
    assert [hub["name"] for hub in webpubsub("hub", "list", "-o", "json").json] == ["a" * 100, "chat"]


def test_an_empty_list_says_so_and_is_an_empty_array(webpubsub: Run) -> None:
    assert "No hub has settings" in webpubsub("hub", "list").out
    assert webpubsub("hub", "list", "-o", "json").json == []
    assert webpubsub("hub", "list", "-o", "tsv").out == ""


def test_hub_delete_takes_keys_and_grants_along(webpubsub: Run) -> None:
    hub = Hub.objects.create(name="chat")
    AccessKey.objects.ensure_pair(hub)
    RoleGrant.objects.create(hub=hub, who="anonymous", role="sendToGroup")
    assert webpubsub("hub", "delete", "chat", "-y").out == "Deleted the settings of hub chat.\n"
    assert [model.objects.count() for model in (Hub, AccessKey, RoleGrant)] == [0, 0, 0]


def test_hub_delete_prints_nothing_for_programs(webpubsub: Run) -> None:
    Hub.objects.create(name="chat")
    assert webpubsub("hub", "delete", "chat", "--yes", "-o", "json").out == ""


@pytest.mark.parametrize(("answer", "deleted"), [("y", True), ("YES", True), ("", False), ("n", False), ("yo", False)])
def test_hub_delete_asks_at_a_terminal(
    webpubsub: Run, monkeypatch: pytest.MonkeyPatch, answer: str, deleted: bool
) -> None:
    Hub.objects.create(name="chat")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or answer)
    if deleted:
        webpubsub("hub", "delete", "chat")
    else:
        with pytest.raises(CommandError, match="Nothing was deleted"):
            webpubsub("hub", "delete", "chat")
    assert asked == [
        "Delete the settings of hub chat, with 0 keys, 0 role grants and 0 event handlers and listeners? (y/N) "
    ]
    assert Hub.objects.exists() is not deleted


@pytest.mark.parametrize("key", [EOFError, KeyboardInterrupt])
def test_hub_delete_takes_a_way_out_for_a_no(
    webpubsub: Run, monkeypatch: pytest.MonkeyPatch, key: type[BaseException]
) -> None:
    def answer(question: str) -> str:
        raise key

    Hub.objects.create(name="chat")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", answer)
    with pytest.raises(CommandError, match="Nothing was deleted"):
        webpubsub("hub", "delete", "chat")
    assert Hub.objects.exists()


def test_hub_delete_without_a_terminal_wants_yes(webpubsub: Run) -> None:
    Hub.objects.create(name="chat")
    with pytest.raises(CommandError, match="add --yes"):
        webpubsub("hub", "delete", "chat")
    assert Hub.objects.exists()


def test_a_resource_name_is_never_taken_for_a_hub(webpubsub: Run) -> None:
    """`az webpubsub delete -n x -g y`, typed one word too long, must not delete a hub x."""
    Hub.objects.create(name="x")
    with pytest.raises(CommandError, match="name the hub"):
        webpubsub("hub", "delete", "-n", "x", "-g", "y", "--yes")
    assert Hub.objects.exists()


# Queries


@pytest.mark.parametrize(
    ("query", "form", "expected"),
    [
        ("[].name", "tsv", "chat\nnews\n"),
        ("[0].properties.anonymousConnectPolicy", "tsv", "deny\n"),
        ("[].[name, properties.anonymousUserIdPolicy]", "tsv", "chat\tdeny\nnews\tallow\n"),
        ("[?properties.anonymousUserIdPolicy=='allow'].name | [0]", "json", '"news"\n'),
        ("[0].name", "table", "chat\n"),
        ("[9].name", "table", "\n"),
        (
            "[0].properties",
            "table",
            "anonymousConnectPolicy  deny\nanonymousUserIdPolicy   deny\neventHandlers           []\n"
            "eventListeners          []\n",
        ),
        ("[].name", "table", "Result\n──────\nchat\nnews\n"),
        (
            "[].{hub: name, ids: properties.anonymousUserIdPolicy}",
            "table",
            "hub    ids\n────────────\nchat   deny\nnews   allow\n",
        ),
    ],
)
def test_queries_pick_from_the_json(webpubsub: Run, query: str, form: str, expected: str) -> None:
    Hub.objects.create(name="chat")
    Hub.objects.create(name="news", anonymous_user_ids=True)
    assert webpubsub("hub", "list", "--query", query, "-o", form).out == expected


def test_handlers_in_code_are_shown(webpubsub: Run) -> None:
    """The moderator of the demos is a function in code, with settings of its hub and without."""
    nothing = webpubsub("hub", "list")
    assert "Hub moderated has no settings, but event handlers in code: hubs.demos.moderation.come_in, " in nothing.err
    functions = "hubs.demos.moderation.come_in, hubs.demos.moderation.say"
    with pytest.raises(CommandError, match=re.escape(f"It has event handlers in code: {functions}.")):
        webpubsub("hub", "show", "moderated")
    Hub.objects.create(name="moderated")
    Hub.objects.create(name="chat")
    shown = webpubsub("hub", "show", "moderated").out
    assert re.search(r"Handler in code 1 +hubs\.demos\.moderation\.come_in; connect\n", shown)
    assert re.search(r"Handler in code 2 +hubs\.demos\.moderation\.say; user events say\n", shown)
    assert "in code" not in webpubsub("hub", "show", "chat").out
    listed = webpubsub("hub", "list", "--query", "[].[name, length(handlersInCode)]", "-o", "tsv")
    assert (listed.out, listed.err) == ("chat\t0\nmoderated\t2\n", "")


# Client URLs


def claims_of(url: str, key: str) -> dict[str, object]:
    return jwt.decode(url.partition("?access_token=")[2], key, algorithms=["HS256"], options={"verify_aud": False})


def test_client_url_prints_one_line_that_holds_everything(webpubsub: Run, keys: dict[str, str]) -> None:
    line = (
        "client url --hub Chat --user-id ada --role webpubsub.sendToGroup webpubsub.joinLeaveGroup.a "
        "--role webpubsub.joinLeaveGroups.b* --group g1 --group g2 g3 --expires-in 5"
    )
    printed = webpubsub(*line.split())
    assert printed.err == ""
    assert printed.out.count("\n") == 1
    assert printed.out.startswith("ws://localhost:8080/client/hubs/chat?access_token=")
    claims = claims_of(printed.out.strip(), keys["primary"])
    assert claims.pop("exp") == claims.pop("iat") + 300  # type: ignore[operator]
    assert claims == {
        "aud": "http://localhost:8080/client/hubs/chat",
        "sub": "ada",
        "role": ["webpubsub.sendToGroup", "webpubsub.joinLeaveGroup.a", "webpubsub.joinLeaveGroups.b*"],
        "webpubsub.group": ["g1", "g2", "g3"],
    }


def test_client_url_in_json(webpubsub: Run, keys: dict[str, str]) -> None:
    shown = webpubsub("client", "url", "--hub-name", "chat", "-o", "json").json
    assert set(shown) == {"url", "baseUrl", "token", "expires"}
    assert shown["url"] == f"{shown['baseUrl']}?access_token={shown['token']}"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown["expires"])
    assert set(claims_of(shown["url"], keys["primary"])) == {"aud", "iat", "exp"}, "nothing named, nothing granted"


def test_a_role_that_grants_nothing_is_remarked(webpubsub: Run, keys: dict[str, str]) -> None:
    printed = webpubsub("client", "url", "--hub", "chat", "--role", "sendToGroup", "webpubsub.sendToGroup")
    assert printed.err.count("\n") == 1
    assert "'sendToGroup' grants nothing" in printed.err


# Wrong input

WRONG = [
    ("", "required: GROUP"),
    ("kye show", "'kye' is not a command here. Did you mean 'key'?"),
    ("nonsense", "Choose from: key, hub, client, service."),
    ("key", "required: COMMAND"),
    ("key shwo", "Did you mean 'show'?"),
    ("key regenerate", "--key-type"),
    ("key regenerate --key third", "Choose from: primary, secondary."),
    ("key show --hub unknown", "no settings for a hub unknown. To create it: manage.py webpubsub hub create"),
    ("key show --hub 1a", "'1a' cannot be the name of a hub"),
    ("key show --output xml", "Choose from: table, json, tsv."),
    ("key show --query [", "--query is not a JMESPath expression"),
    ("key show --query unknown(@)", "--query: "),
    ("key show --revael", "--revael is not known here."),
    ("hub list extra", "extra is not known here."),
    ("hub create", "name the hub: --hub-name HUB"),
    ("hub create one --hub-name two", "two hubs are named: one and two"),
    ("hub create 9to5", "start with a letter"),
    ("hub create here", "There is a hub here already. To change it: manage.py webpubsub hub update --hub-name here"),
    ("hub create new --allow-anonymous maybe", "write true or false, not 'maybe'"),
    ("hub create new --event-handlr url-template=x", "Did you mean --event-handler?"),
    ("hub update here --alow-anonymous true", "Did you mean --allow-anonymous?"),
    ("hub update here", "nothing to change: give --allow-anonymous"),
    ("hub show nowhere", "no settings for a hub nowhere"),
    ("hub delete nowhere --yes", "no settings for a hub nowhere"),
    ("client url", "name the hub: --hub-name HUB"),
    ("client url --hub chat --expires-in soon", "invalid int value: 'soon'"),
    ("client url --hub chat --expires-in 0", "A lifetime is 1 to"),
    ("client url --hub chat --role", "expected at least one argument"),
    ("client url --hub -", "'-' cannot be the name of a hub"),
    ("client start", "name the hub: --hub-name HUB"),
    ("client start --url http://localhost:8080/", "--url is not a client URL"),
    ("client start --url ws://:99999", "--url is not a client URL"),
    ("client start --url ws://localhost/ --hub chat --user-id me", "leave out --hub-name, --user-id"),
    ("client start --hub chat --protocol mqtt", "Choose from: json.webpubsub.azure.v1, none."),
]


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(("typed", "answer"), WRONG, ids=[typed or "(nothing)" for typed, _ in WRONG])
def test_wrong_input_is_answered_in_a_line(webpubsub: Run, typed: str, answer: str) -> None:
    Hub.objects.create(name="here")
    with pytest.raises(CommandError) as refused:
        webpubsub(*typed.split())
    assert answer in str(refused.value)
    assert "\n" not in str(refused.value)
    assert [hub.name for hub in Hub.objects.all()] == ["here"], "nothing was changed"


@pytest.mark.usefixtures("keys")
def test_texts_that_cannot_be_groups_or_users_are_refused(webpubsub: Run) -> None:
    for words in (["--group", " "], ["--group", "g" * 1025], ["--user-id", " "], ["--group", "\udc80"]):
        with pytest.raises(CommandError):
            webpubsub("client", "url", "--hub", "chat", *words)


# As processes: exit codes, streams, an empty database


def manage(data_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return Service(data_dir).manage("webpubsub", *words, check=False)


def test_exit_codes_and_streams(data_dir: Path) -> None:
    empty = manage(data_dir, "hub", "list")
    assert (empty.returncode, empty.stdout) == (1, "")
    assert empty.stderr == "Error: The database is not set up for this version. Run: manage.py migrate\n"

    service = Service(data_dir).set_up()
    good = service.manage("webpubsub", "hub", "list", "-o", "json")
    assert [hub["name"] for hub in json.loads(good.stdout)] == ["chat", "moderated", "stream"]
    assert good.stderr == ""

    refused = manage(data_dir, "hub", "show", "nowhere")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("Error: ")
    assert refused.stderr.count("\n") == 1

    misused = manage(data_dir, "hub", "shwo")
    assert (misused.returncode, misused.stdout) == (2, "")
    assert misused.stderr.splitlines()[1:] == ["To see how it is used: manage.py webpubsub hub --help"]


def test_an_unreachable_database_is_explained(data_dir: Path) -> None:
    service = Service(data_dir, env={"DATABASE_URL": f"sqlite:///{data_dir}/not/there/db.sqlite3"})
    done = service.manage("webpubsub", "hub", "list", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: The database {data_dir}/not/there/db.sqlite3 cannot ")
    assert done.stderr.count("\n") == 1


COMMANDS = [
    [],
    ["key"],
    ["key", "show"],
    ["key", "regenerate"],
    ["hub"],
    ["hub", "create"],
    ["hub", "update"],
    ["hub", "show"],
    ["hub", "list"],
    ["hub", "delete"],
    ["client"],
    ["client", "url"],
    ["client", "start"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(webpubsub: Run, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        webpubsub(*command, "--help")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: ")
    if len(command) == 2:
        assert f"examples:\n  manage.py webpubsub {' '.join(command)}" in shown
    assert max(map(len, shown.splitlines())) <= 132


def test_the_examples_in_help_can_be_typed(webpubsub: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them but the console's, which need a service."""
    AccessKey.objects.ensure_pair()
    tried = 0
    for command in COMMANDS:
        if len(command) < 2 or command == ["client", "start"]:
            continue
        with pytest.raises(SystemExit):
            webpubsub(*command, "--help")
        examples = capsys.readouterr().out.split("examples:\n")[1].splitlines()
        for example in examples:
            Hub.objects.all().delete()
            if command != ["hub", "create"]:
                AccessKey.objects.ensure_pair(Hub.objects.create(name="chat"))
            words = shlex.split(example.removeprefix("  manage.py webpubsub "))
            webpubsub(*words, *(["--yes"] if command == ["hub", "delete"] else []))
            tried += 1
    assert tried >= 14


def test_a_reader_who_leaves_early_is_no_error(data_dir: Path) -> None:
    service = Service(data_dir).set_up()
    del service.env["PYTHONUNBUFFERED"]
    process = subprocess.Popen(
        [sys.executable, "manage.py", "webpubsub", "hub", "list", "-o", "json"],
        cwd=ROOT,
        env=service.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait(PATIENCE)
