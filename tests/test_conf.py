"""The service's settings: defaults, unknown names, and what each complains about."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from hubs import conf


def test_defaults_stand_where_nothing_is_given(settings: Any) -> None:
    settings.WEBPUBSUB = {}
    for name, option in conf.OPTIONS.items():
        assert getattr(conf.settings, name) == option.default


def test_defaults_obey_their_own_rules() -> None:
    for name, option in conf.OPTIONS.items():
        assert option.complaint(option.default) is None, name
        assert option.meaning.endswith("."), name


def test_what_is_given_wins_and_is_read_anew_when_it_changes(settings: Any) -> None:
    settings.WEBPUBSUB = {"DEFAULT_HUB": "one"}
    assert conf.settings.DEFAULT_HUB == "one"
    settings.WEBPUBSUB = {"DEFAULT_HUB": "two"}
    assert conf.settings.DEFAULT_HUB == "two"


def test_other_settings_do_not_matter(settings: Any) -> None:
    settings.WEBPUBSUB = {"DEFAULT_HUB": "one"}
    assert conf.settings.DEFAULT_HUB == "one"
    settings.LANGUAGE_CODE = "de"
    assert "DEFAULT_HUB" in conf.settings.__dict__


def test_without_the_dictionary(settings: Any) -> None:
    del settings.WEBPUBSUB
    conf.settings.reset()
    assert conf.settings.DEFAULT_HUB == "chat"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("DEFAULT_HUBS", "Did you mean 'DEFAULT_HUB'?"),
        ("default_hub", "Did you mean 'DEFAULT_HUB'?"),
        ("PUBLIC_ENDPOINT", "Did you mean 'PUBLIC_ENDPOINTS'?"),
        ("ZZZ", "Known names: ANSWER_SECS, "),
        (5, "Known names: ANSWER_SECS, "),
    ],
)
def test_an_unknown_name_is_an_error_that_helps(settings: Any, name: Any, hint: str) -> None:
    settings.WEBPUBSUB = {name: 1}
    with pytest.raises(ImproperlyConfigured) as problem:
        _ = conf.settings.DEFAULT_HUB
    assert f"WEBPUBSUB[{name!r}] is not a setting of this service." in str(problem.value)
    assert hint in str(problem.value)


@pytest.mark.parametrize("value", [None, [], ["DEFAULT_HUB"], "DEFAULT_HUB", 5])
def test_it_has_to_be_a_dictionary(settings: Any, value: Any) -> None:
    settings.WEBPUBSUB = value
    with pytest.raises(ImproperlyConfigured, match="has to be a dictionary"):
        conf.chosen()


def test_reading_a_name_that_is_none() -> None:
    with pytest.raises(AttributeError, match="no setting 'NONSENSE'"):
        _ = conf.settings.NONSENSE


_FLAGS = [name for name, option in conf.OPTIONS.items() if isinstance(option.default, bool)]
_NUMBERS = [
    name
    for name, option in conf.OPTIONS.items()
    if isinstance(option.default, int | float) and not isinstance(option.default, bool)
]
_RATES = [name for name in conf.OPTIONS if "_RATE_" in name]


@pytest.mark.parametrize("name", _FLAGS)
@pytest.mark.parametrize("value", ["True", "yes", 1, 0, None])
def test_flags(name: str, value: Any) -> None:
    assert conf.OPTIONS[name].complaint(True) is None
    assert conf.OPTIONS[name].complaint(value) == "write True or False"


@pytest.mark.parametrize("name", _NUMBERS)
@pytest.mark.parametrize("value", ["1", None, True, -1, 1e18, float("nan"), float("inf"), [1]])
def test_numbers(name: str, value: Any) -> None:
    complaint = conf.OPTIONS[name].complaint(value)
    assert complaint is not None
    assert complaint.startswith("write a number from ")


@pytest.mark.parametrize("name", _RATES)
@pytest.mark.parametrize("rate", [None, "1/s", "120/min", "5/m", "10/hour", "3/day"])
def test_rates(name: str, rate: str | None) -> None:
    assert conf.OPTIONS[name].complaint(rate) is None


@pytest.mark.parametrize("name", _RATES)
@pytest.mark.parametrize(
    "rate", ["", "120", "/min", "120/", "120/year", "many/min", "-1/min", "1.5/min", 120, " 1/min"]
)
def test_what_is_no_rate(name: str, rate: Any) -> None:
    assert conf.OPTIONS[name].complaint(rate) == 'write a rate such as "120/min", or None'


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://localhost",
        "https://pubsub.example.com:8443",
        "https://gw/prefix",
        "https://gw/prefix/",
        "http://[::1]:8080",
        "HTTPS://h",
    ],
)
def test_endpoints(endpoint: str) -> None:
    assert conf.OPTIONS["PUBLIC_ENDPOINTS"].complaint([endpoint]) is None
    assert conf.OPTIONS["PUBLIC_ENDPOINTS"].complaint(("https://other", endpoint)) is None


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "localhost:8080",
        "ws://h",
        "ftp://h",
        "https://",
        "https:///x",
        "//h",
        "https://h:99999",
        "https://h:port",
        "https://[::1",
        "https://user@h",
        "https://a b",
        "https://h\\x",
        "https://[h]/",
        5,
        None,
        b"https://h",
    ],
)
def test_what_is_no_endpoint(endpoint: Any) -> None:
    complaint = conf.OPTIONS["PUBLIC_ENDPOINTS"].complaint(["https://good", endpoint])
    assert complaint == f"{endpoint!r} is not an endpoint; write http(s)://host[:port][/prefix]"


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("https://h?x=1", "a query or a fragment"),
        ("https://h/#x", "a query or a fragment"),
        ("https://h:0", "port 0 cannot be reached"),
        ("http://0x7f.1", "the IPv4 address as four decimal numbers"),
        ("http://10.1", "the IPv4 address as four decimal numbers"),
    ],
)
def test_what_is_wrong_with_an_endpoint(endpoint: str, why: str) -> None:
    complaint = conf.OPTIONS["PUBLIC_ENDPOINTS"].complaint([endpoint])
    assert complaint is not None
    assert why in complaint
    assert "write " in complaint


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("https://h/", "https://h"),
        (" https://H:443/Rt/ ", "https://h/Rt"),
        ("HTTP://h:80", "http://h"),
        ("http://h:443", "http://h:443"),
        ("https://Bücher.example/räume", "https://xn--bcher-kva.example/r%C3%A4ume"),
        ("https://[2001:DB8:0:0::1]:443", "https://[2001:db8::1]"),
        ("https://h/a/../b%7e", "https://h/b~"),
    ],
)
def test_endpoints_are_written_as_browsers_do(settings: Any, written: str, normal: str) -> None:
    settings.WEBPUBSUB = {"PUBLIC_ENDPOINTS": (written, normal, "http://other")}
    found: list[str] = conf.settings.PUBLIC_ENDPOINTS
    assert found == [normal, "http://other"]


@pytest.mark.parametrize("value", [[], (), "https://h", None, 5, {}])
def test_endpoints_are_a_list(value: Any) -> None:
    complaint = conf.OPTIONS["PUBLIC_ENDPOINTS"].complaint(value)
    assert complaint is not None
    assert "write a list of at least one URL" in complaint
