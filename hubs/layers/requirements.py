"""What a Redis lacks to be used by this layer, in sentences for an operator."""

from __future__ import annotations

import re
import secrets
from typing import Any

from redis.exceptions import ResponseError

from hubs.layers.commands import pack
from hubs.layers.errors import LayerAway
from hubs.layers.wire import Host, Wire

MIN_VERSION = (6, 2)

# Without these some things go unsaid or undone; all else of what is tried below has to be permitted.
_ADVISABLE = {
    "CLIENT": "a message that was refused because the connection was lost may be delivered after all",
    "INFO": "a message that was refused because the connection was lost may be delivered after all",
    "MEMORY": "logs are trimmed by age only, not by size",
}


async def lacks(host: Host, prefix: str) -> list[str]:
    """Complaints about one Redis, none if it serves. Raises LayerAway."""
    complaints: list[str] = []

    async def look(wire: Wire) -> None:
        complaints.extend(await _complaints(wire, prefix))

    try:
        wire = await host.dial(look)
        wire.lose(LayerAway("It was looked at."))
        await wire.closed
    finally:
        await host.close()
    return complaints


async def _complaints(wire: Wire, prefix: str) -> list[str]:
    complaints = []
    info, policy = await wire.ask(pack("INFO", "server"), pack("CONFIG", "GET", "maxmemory-policy"))
    found = re.search(rb"redis_version:(\d+)\.(\d+)", info) if isinstance(info, bytes) else None
    if found and (int(found[1]), int(found[2])) < MIN_VERSION:
        complaints.append(
            f"Redis {found[1].decode()}.{found[2].decode()} is too old: streams cannot be trimmed by age. "
            "Install Redis 6.2 or later, or Valkey."
        )
    if isinstance(info, bytes) and b"redis_mode:cluster" in info:
        complaints.append("This is a Redis Cluster, which is not supported. Name Redis servers that stand alone.")
    # Managed services often forbid CONFIG; then nothing is known.
    chosen = policy[1].decode() if isinstance(policy, list) and len(policy) == 2 else "noeviction"
    if chosen != "noeviction":
        # Also those of which only keys with an expiry are dropped: logs and snapshots have one.
        complaints.append(
            f"Redis' maxmemory-policy is {chosen}: when memory runs out, it drops logs, and with them messages that it "
            "has acknowledged. Set maxmemory-policy noeviction."
        )
    complaints += await _forbidden(wire, prefix)
    return complaints


async def _forbidden(wire: Wire, prefix: str) -> list[str]:
    """Try each command on keys that nobody uses."""
    unused = secrets.token_hex(8)
    log, channel, wake, other = (f"{prefix}:{kind}:{unused}" for kind in ("log", "channel", "wake", "unused"))
    tried: list[tuple[Any, ...]] = [
        ("XADD", log, "MAXLEN", "~", 1, "*", "n", "1"),
        ("XADD", channel, "*", "n", "1"),
        ("XADD", wake, "*", "n", "1"),
        ("XRANGE", log, "-", "+", "COUNT", 1),
        ("XREVRANGE", log, "+", "-", "COUNT", 1),
        ("XTRIM", log, "MAXLEN", "~", 1),
        ("XDEL", channel, "1-1"),
        ("XLEN", log),
        ("XREAD", "COUNT", 1, "BLOCK", 1, "STREAMS", log, "0-0"),
        ("PEXPIRE", log, 1),
        ("PEXPIRE", channel, 1),
        ("PEXPIRE", wake, 1),
        ("GET", other),
        ("TIME",),
        ("INFO", "server"),
        ("MEMORY", "USAGE", log),
        ("CLIENT", "ID"),
        # There is no such connection.
        ("CLIENT", "KILL", "ID", 2**62),
    ]
    complaints: dict[str, None] = {}
    for command, answer in zip(tried, await wire.ask(*(pack(*each) for each in tried)), strict=True):
        if not isinstance(answer, ResponseError):
            continue
        name, problem = str(command[0]), str(answer)
        if problem.startswith("NOPERM"):
            about = f"its keys begin with {prefix}:" if "key" in problem else f"permit {name} in the ACL"
            lost = f"; without it {_ADVISABLE[name]}" if name in _ADVISABLE else ""
            complaints[f"Redis does not let this user use {name}{lost}: {about}."] = None
        else:
            # A replica that can only be read, no memory left, another kind of server.
            complaints[f"Redis refuses what has to work: {problem}"] = None
    return list(complaints)
