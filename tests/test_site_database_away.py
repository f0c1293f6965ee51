"""Pages while the database is away: whatever part of Django comes upon it, the answer is 503 and a line in the log."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.backends.db import SessionStore
from django.db import OperationalError, ProgrammingError
from django.test import Client

from hubs import database, hub_settings
from hubs.hub_settings import Outage
from hubs.models import Hub
from pubsub_site import database_away

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _fresh(fresh_settings: None) -> None:
    database._log._held.clear()


@pytest.fixture
def staff() -> Client:
    """A browser of staff that is signed in, and gets answers where Django failed."""
    client = Client(raise_request_exception=False, headers={"host": "localhost:8080", "accept": "text/html"})
    client.force_login(get_user_model().objects.create_superuser("ann", "", "x"))
    return client


def failing(*_: Any, **__: Any) -> Any:
    raise OperationalError("unable to open database file")


def test_who_is_signed_in_cannot_be_known(
    staff: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(SessionStore, "load", failing)
    for _ in range(3):
        page = staff.get("/admin/hubs/hub/")
        assert (page.status_code, page["Retry-After"], page["Cache-Control"]) == (503, "5", "no-store")
        assert page["Content-Type"] == "text/html; charset=utf-8"
        assert "<h1>The database is unavailable</h1>" in page.text
        assert "Content-Security-Policy" in page
    [line] = caplog.records
    assert line.getMessage() == "The database is unavailable, needed for a page: unable to open database file"
    assert line.exc_info is None


def test_a_session_that_cannot_be_saved(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It is saved by middleware, after the view."""
    get_user_model().objects.create_superuser("ann", "", "right")
    client = Client(raise_request_exception=False, headers={"host": "localhost:8080"})
    monkeypatch.setattr(SessionStore, "save", failing)
    page = client.post("/admin/login/", {"username": "ann", "password": "right"})
    assert page.status_code == 503
    # For programs.
    assert (page["Content-Type"], page.text) == ("text/plain; charset=utf-8", database_away.TEXT)
    assert len(caplog.records) == 1


def test_a_view_that_needs_it(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub.objects, "get_queryset", failing)
    monkeypatch.setattr(Hub._default_manager, "get_queryset", failing)
    assert staff.get("/admin/hubs/hub/").status_code == 503


def test_faults_of_ours_stay_faults_of_ours(
    staff: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(*_: Any, **__: Any) -> Any:
        raise ProgrammingError("no such column")

    monkeypatch.setattr(Hub._default_manager, "get_queryset", fault)
    assert staff.get("/admin/hubs/hub/").status_code == 500
    assert "ProgrammingError" in caplog.text


# What staff is told


def shown(staff: Client) -> str:
    page = staff.get("/admin/")
    assert page.status_code == 200
    return page.text


def test_without_an_outage_nothing_is_told(staff: Client) -> None:
    assert "by the process that shows this page" not in shown(staff)


def test_an_outage_is_told_on_each_page(staff: Client, monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    """The admin may work while looks fail: the database is slow, or a table is locked."""
    hub_settings.current()
    monkeypatch.setattr(hub_settings._Held, "outage", Outage(1_700_000_000, "<no answer>"))
    text = shown(staff)
    assert "The database cannot be read since 22:13:20 UTC" in text
    assert "&lt;no answer&gt;" in text
    assert "It goes on with the hubs and keys that it read last, until 2023-11-14 23:13:20 UTC" in text
    monkeypatch.setattr(hub_settings._Held, "confirmed_at", float("-inf"))
    assert "it refuses new clients and calls" in shown(staff)


def test_an_outage_that_is_over_is_told_for_an_hour(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = time.time() - database_away.TOLD_SECS + 60
    monkeypatch.setattr(hub_settings._Held, "outage", Outage(ended - 10, "gone", ended))
    assert "The database could not be read from" in shown(staff)
    monkeypatch.setattr(hub_settings._Held, "outage", Outage(ended - 100, "gone", ended - 61))
    assert "could not be read" not in shown(staff)


def test_visitors_are_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_settings._Held, "outage", Outage(1_700_000_000, "secret.host"))
    page = Client(headers={"host": "localhost:8080"}).get("/admin/login/")
    assert page.status_code == 200
    assert "secret.host" not in page.text
