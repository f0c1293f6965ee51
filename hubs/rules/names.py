"""What hubs, groups, events and users may be called.

Sources: the Azure REST description (hub pattern), the client protocol's limits on groups and events.
"""

import re

# Written out: str.isalpha() would let letters of every script pass.
HUB = r"[A-Za-z][A-Za-z0-9_`,.\[\]]{0,127}"
_HUB = re.compile(HUB)
_EVENT = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}")

MAX_GROUP_CHARACTERS = 1024


def is_hub_name(name: str) -> bool:
    """A letter, then at most 127 letters, digits or one of ``_ ` , . [ ]``."""
    return _HUB.fullmatch(name) is not None


def canonical_hub(name: str) -> str:
    """Hub names are the same in any letter case; this is the one spelling used inside."""
    return name.lower()


def is_event_name(name: str) -> bool:
    """A letter, then at most 127 letters, digits or one of ``_ . -``."""
    return _EVENT.fullmatch(name) is not None


def is_group_name(name: str) -> bool:
    """1 to 1024 characters of text, not only white space; case counts."""
    return 0 < len(name) <= MAX_GROUP_CHARACTERS and not name.isspace() and is_text(name)


def is_text(value: str) -> bool:
    """Tell whether a string is text everywhere: half a surrogate pair is a str in Python and cannot be UTF-8."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
