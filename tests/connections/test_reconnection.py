"""The proof that a connection is a client's own."""

from __future__ import annotations

import time
from typing import Any

import pytest

from hubs.connections import reconnection
from hubs.rules import tokens

ID = "a" * 32


def test_a_token_opens_one_connection_of_one_hub() -> None:
    token = reconnection.token_for("chat", ID)
    assert reconnection.is_valid(token, "chat", ID)
    assert not reconnection.is_valid(token, "chat", "b" * 32)
    assert not reconnection.is_valid(token, "other", ID)


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "a.b", "." * 9, "\udcff", "é" * 40])
def test_what_is_no_token(token: str) -> None:
    assert not reconnection.is_valid(token, "chat", ID)


def test_every_character_counts() -> None:
    token = reconnection.token_for("chat", ID)
    head, body, signature = token.split(".")
    swapped = "A" if signature[0] != "A" else "B"
    assert not reconnection.is_valid(f"{head}.{body}.{swapped}{signature[1:]}", "chat", ID)
    assert not reconnection.is_valid(f"{head}.{body}.", "chat", ID)
    other = reconnection.token_for("chat", "b" * 32).split(".")
    assert not reconnection.is_valid(f"{head}.{other[1]}.{signature}", "chat", ID)


def test_it_is_signed_by_a_key_of_its_own(settings: Any) -> None:
    claims = {"aud": reconnection._audience("chat", ID), "exp": int(time.time()) + 1000}
    assert not reconnection.is_valid(tokens.sign(claims, settings.SECRET_KEY), "chat", ID)
    settings.SECRET_KEY = "another " * 5
    assert not reconnection.is_valid(tokens.sign(claims, settings.SECRET_KEY), "chat", ID)


def test_a_new_secret_key_leaves_tokens_of_the_old_one_valid_while_that_is_a_fallback(settings: Any) -> None:
    token = reconnection.token_for("chat", ID)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "another " * 5, [settings.SECRET_KEY]
    assert reconnection.is_valid(token, "chat", ID)
    assert reconnection.is_valid(reconnection.token_for("chat", ID), "chat", ID)
    settings.SECRET_KEY_FALLBACKS = []
    assert not reconnection.is_valid(token, "chat", ID)


def test_it_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    token = reconnection.token_for("chat", ID)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + reconnection.LIFETIME_SECS - 2)
    assert reconnection.is_valid(token, "chat", ID)
    monkeypatch.setattr(time, "time", lambda: now + reconnection.LIFETIME_SECS + 2)
    assert not reconnection.is_valid(token, "chat", ID)
