from __future__ import annotations

import pytest
from django.http import QueryDict

from hubs.rest.exceptions import BadRequest
from hubs.rest.parameters import Parameters


def test_names_are_the_same_in_any_letter_case():
    parameters = Parameters(QueryDict("targetName=a&TARGETNAME=b"))
    assert parameters.many("TargetName") == ["a", "b"]


def test_values_are_form_decoded_and_not_split():
    assert Parameters(QueryDict("group=a+b%2Cc,d&group=")).many("group") == ["a b,c,d", ""]


def test_what_is_said_twice_is_not_chosen_from():
    with pytest.raises(BadRequest) as problem:
        Parameters(QueryDict("reason=a&reason=a")).one("reason")
    assert problem.value.target == "reason"


def test_what_is_not_said_is_none():
    assert Parameters(QueryDict("other=1")).one("reason") is None


@pytest.mark.parametrize("text", ["0", "-1", "+5", "1.5", "1e3", " 5", "5_0", "٥", " ", "abc", "301", "9" * 5000])
def test_a_number_out_of_bounds_is_refused(text):
    query = QueryDict(mutable=True)
    query["minutes"] = text
    with pytest.raises(BadRequest, match="from 1 to 300"):
        Parameters(query).integer("minutes", default=60, least=1, most=300)


@pytest.mark.parametrize(
    ("query", "expected"), [("", 60), ("minutes=", 60), ("minutes=1", 1), ("minutes=300", 300), ("minutes=007", 7)]
)
def test_a_number_is_read(query, expected):
    assert Parameters(QueryDict(query)).integer("minutes", default=60, least=1, most=300) == expected
