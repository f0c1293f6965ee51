"""Each way in which a WebSocket ends is documented, has one place in the code, and fits into a close frame."""

from __future__ import annotations

import ast

import pytest

from hubs import close_codes
from hubs.close_codes import CloseReason, Then
from tests.running import ROOT

PROTOBUF = "protobuf.webpubsub.azure.v1"
REASONS = [
    *(each for each in vars(close_codes).values() if isinstance(each, CloseReason)),
    close_codes.protobuf_needs_binary(PROTOBUF),
    close_codes.invalid_protobuf(PROTOBUF),
    close_codes.forbidden("The client does not have permission to send to group 'g'."),
    close_codes.closed_by_service(""),
]


def test_the_page_has_each_of_them() -> None:
    rows = [line for line in (ROOT / "docs/close-codes.md").read_text().splitlines() if line.startswith("| ")][2:]
    assert sorted(rows) == sorted(
        f"| {each.code or '–'} | {f'`{each.reason}`' if each.reason else '–'} | {each.when} | {each.then.value} |"
        for each in REASONS
    )


@pytest.mark.parametrize("each", REASONS, ids=lambda each: each.reason or str(each.code))
def test_it_fits_into_a_close_frame(each: CloseReason) -> None:
    assert len(each.reason.encode()) <= 123


def test_only_what_ends_a_connection_for_good_is_1008() -> None:
    """SDKs give the connection up after 1008, and after nothing else that the service may say."""
    assert {each.then for each in REASONS if each.code == close_codes.POLICY_VIOLATION} <= {Then.RENEW, Then.MEND}
    assert {each.code for each in REASONS if each.then is Then.RECOVER} <= {1001, 1011, None}


def test_no_other_module_has_codes_or_reasons_of_its_own() -> None:
    known = {each.reason for each in REASONS if each.reason}
    for path in (ROOT / "hubs").rglob("*.py"):
        if path.name == "close_codes.py":
            continue
        texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        # What a REST caller or an ack is told of a fault is the same text.
        assert not (texts & known) - {close_codes.FAILED.reason}, path
