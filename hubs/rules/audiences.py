"""Which connections a message or an operation is meant for."""

from __future__ import annotations

import msgspec

from hubs.rules.filters import Subject, compile_filter


class Audience(msgspec.Struct, frozen=True, array_like=True):
    """Which connections of a hub are meant: all that every given part holds for.

    `group`: members of it; `user_id`: the user's; `filter`: those it is true for (rules/filters);
    `excluded`: connection ids that are not meant. Nothing given means the whole hub.
    """

    hub: str
    group: str | None = None
    user_id: str | None = None
    filter: str | None = None
    excluded: tuple[str, ...] = ()


def includes(audience: Audience, recipient: Subject) -> bool:
    """Whether a connection of the audience's hub is meant, with the groups it is in now."""
    return (
        (audience.group is None or audience.group in recipient.groups)
        and (audience.user_id is None or audience.user_id == recipient.user_id)
        and recipient.id not in audience.excluded
        and (audience.filter is None or compile_filter(audience.filter)(recipient))
    )
