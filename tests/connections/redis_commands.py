"""What Redis 6.2 answers, without sockets: keys, values and streams, and the commands about them.

A `Keyspace` is a function of the commands it was given and the times at which they came, and of nothing else. So a
replica is a second one that is given the same, and one that is some commands behind has lost just these.
test_redis_commands.py compares the answers with those of a real Redis.

Two things are less than Redis does. `~` trims whole nodes of a stream, which are counted here from its oldest entry, a
hundred each; and a scan gives all there is at once.
"""

from __future__ import annotations

import fnmatch
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import hiredis

Id = tuple[int, int]

MAX_SEQUENCE = (1 << 64) - 1
LAST_ID: Id = (MAX_SEQUENCE, MAX_SEQUENCE)
NODE_ENTRIES = 100
# How many entries one command trims away approximately.
TRIM_LIMIT = 100 * NODE_ENTRIES


class RedisError(Exception):
    """An error that Redis answers."""


class Status(str):
    """A simple string."""

    __slots__ = ()


class Encoded(bytes):
    """A part of an answer that is encoded already."""

    __slots__ = ()


OK = Status("OK")
# Where nothing came in the time that was given, the answer is no array.
NO_ARRAY = Encoded(b"*-1\r\n")

WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
SYNTAX = "ERR syntax error"
NOT_AN_INTEGER = "ERR value is not an integer or out of range"


def encode(answer: Any) -> bytes:
    """An answer as it is on the wire, in version 2 of the protocol."""
    match answer:
        case Encoded():
            return answer
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(answer), answer)
        case Status():
            return b"+%b\r\n" % answer.encode()
        case int():
            return b":%d\r\n" % answer
        case None:
            return b"$-1\r\n"
        case RedisError():
            return b"-%b\r\n" % str(answer).encode()
        case list():
            return b"*%d\r\n%b" % (len(answer), b"".join(map(encode, answer)))
    raise TypeError(f"Redis does not answer {answer!r}")


def decoded(answer: bytes) -> Any:
    """What an encoded answer says."""
    reader = hiredis.Reader()
    reader.feed(bytes(answer))
    return reader.gets()


def show(entry_id: Id) -> bytes:
    """An id as Redis writes it."""
    return b"%d-%d" % entry_id


def read_id(text: bytes, sequence: int = 0) -> Id:
    """An id as clients write it; `sequence` is what is meant where they leave the second number out."""
    found = re.fullmatch(rb"(\d+)(?:-(\d+))?", text)
    if found is None:
        raise RedisError("ERR Invalid stream ID specified as stream command argument")
    return int(found[1]), sequence if found[2] is None else int(found[2])


class Stream:
    """Entries in the order of their ids."""

    def __init__(self) -> None:
        self.ids: list[Id] = []
        self.entries: list[Encoded] = []
        self.last_id: Id = (0, 0)
        self.bytes = 0

    def append(self, entry_id: Id, fields: Sequence[bytes]) -> None:
        """Add an entry, whose id has been looked at."""
        entry = Encoded(encode([show(entry_id), list(fields)]))
        self.ids.append(entry_id)
        self.entries.append(entry)
        self.last_id = entry_id
        self.bytes += len(entry)

    def between(self, first: Id, last: Id, count: int | None = None) -> list[Encoded]:
        """Entries from one id to another, both included."""
        start, end = bisect_left(self.ids, first), bisect_right(self.ids, last)
        return self.entries[start : end if count is None else min(end, start + count)]

    def trim(self, superfluous: int, *, approximately: bool, limit: int) -> int:
        """Remove the oldest entries; gives how many were removed."""
        if approximately:
            superfluous = min(superfluous, limit or superfluous) // NODE_ENTRIES * NODE_ENTRIES
        self.bytes -= sum(map(len, self.entries[:superfluous]))
        del self.ids[:superfluous], self.entries[:superfluous]
        return superfluous


class SortedSet(dict[bytes, float]):
    """Members and their scores."""

    def in_order(self) -> list[bytes]:
        """The members by their scores, and those of one score by their names."""
        return sorted(self, key=lambda member: (self[member], member))


Value = bytes | dict[bytes, bytes] | set[bytes] | SortedSet | Stream

_Command = Callable[["Keyspace", list[bytes]], Any]
COMMANDS: dict[bytes, _Command] = {}
# Those that change something.
WRITES: set[bytes] = set()


def _command(*names: str, at_least: int, at_most: int | None = None, writes: bool = False) -> Callable[..., _Command]:
    """A row of the table of commands, with how many arguments each takes."""

    def add(do: _Command) -> _Command:
        for name in names:

            def checked(keyspace: Keyspace, arguments: list[bytes], name: str = name) -> Any:
                if len(arguments) < at_least or (at_most is not None and len(arguments) > at_most):
                    raise RedisError(f"ERR wrong number of arguments for '{name.lower()}' command")
                return do(keyspace, arguments)

            COMMANDS[name.encode()] = checked
            if writes:
                WRITES.add(name.encode())
        return do

    return add


class Keyspace:
    """The keys of one Redis."""

    def __init__(self) -> None:
        self.values: dict[bytes, Value] = {}
        self.expires: dict[bytes, int] = {}
        # Milliseconds since 1970, as of the command that is being done.
        self.now = 0

    def do(self, now: int, name: bytes, arguments: list[bytes]) -> Any:
        """Do a command at a time, in milliseconds. Raises RedisError, and KeyError where the command is not known."""
        self.now = now
        return COMMANDS[name](self, arguments)

    def get(self, key: bytes, kind: Any) -> Any:
        """The value of a key, None if it has none."""
        if self.expires.get(key, self.now + 1) <= self.now:
            self.delete(key)
        value = self.values.get(key)
        if value is not None and type(value) is not kind:
            raise RedisError(WRONG_TYPE)
        return value

    def need(self, key: bytes, kind: Any) -> Any:
        """The value of a key, which is made if it has none."""
        value = self.get(key, kind)
        if value is None:
            value = self.values[key] = kind()
        return value

    def exists(self, key: bytes) -> bool:
        """Whether a key has a value of any kind."""
        if self.expires.get(key, self.now + 1) <= self.now:
            self.delete(key)
        return key in self.values

    def delete(self, key: bytes) -> bool:
        """Remove a key; gives whether it was there."""
        self.expires.pop(key, None)
        return self.values.pop(key, None) is not None

    def drop_if_empty(self, key: bytes) -> None:
        """A value without members is no value. A stream is."""
        if not self.values.get(key, True):
            self.delete(key)


def _integer(text: bytes, problem: str = NOT_AN_INTEGER) -> int:
    if not re.fullmatch(rb"-?\d+", text):
        raise RedisError(problem)
    return int(text)


def _pairs(flat: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


# Of any kind


@_command("DEL", "UNLINK", at_least=1, writes=True)
def _del(keyspace: Keyspace, keys: list[bytes]) -> int:
    return sum(keyspace.exists(key) and keyspace.delete(key) for key in keys)


@_command("EXISTS", at_least=1)
def _exists(keyspace: Keyspace, keys: list[bytes]) -> int:
    return sum(map(keyspace.exists, keys))


@_command("TYPE", at_least=1, at_most=1)
def _type(keyspace: Keyspace, keys: list[bytes]) -> Status:
    names = {bytes: "string", dict: "hash", set: "set", SortedSet: "zset", Stream: "stream"}
    return Status(names[type(keyspace.values[keys[0]])] if keyspace.exists(keys[0]) else "none")


def _expire_at(keyspace: Keyspace, key: bytes, when: int) -> int:
    if not keyspace.exists(key):
        return 0
    keyspace.expires[key] = when
    if when <= keyspace.now:
        keyspace.delete(key)
    return 1


@_command("EXPIRE", at_least=2, at_most=2, writes=True)
def _expire(keyspace: Keyspace, arguments: list[bytes]) -> int:
    return _expire_at(keyspace, arguments[0], keyspace.now + 1000 * _integer(arguments[1]))


@_command("PEXPIRE", at_least=2, at_most=2, writes=True)
def _pexpire(keyspace: Keyspace, arguments: list[bytes]) -> int:
    return _expire_at(keyspace, arguments[0], keyspace.now + _integer(arguments[1]))


@_command("PEXPIREAT", at_least=2, at_most=2, writes=True)
def _pexpireat(keyspace: Keyspace, arguments: list[bytes]) -> int:
    return _expire_at(keyspace, arguments[0], _integer(arguments[1]))


@_command("PERSIST", at_least=1, at_most=1, writes=True)
def _persist(keyspace: Keyspace, arguments: list[bytes]) -> int:
    return int(keyspace.exists(arguments[0]) and keyspace.expires.pop(arguments[0], None) is not None)


@_command("PTTL", at_least=1, at_most=1)
def _pttl(keyspace: Keyspace, arguments: list[bytes]) -> int:
    if not keyspace.exists(arguments[0]):
        return -2
    return keyspace.expires.get(arguments[0], keyspace.now - 1) - keyspace.now


@_command("TTL", at_least=1, at_most=1)
def _ttl(keyspace: Keyspace, arguments: list[bytes]) -> int:
    left = _pttl(keyspace, arguments)
    return left if left < 0 else (left + 500) // 1000


@_command("SCAN", at_least=1)
def _scan(keyspace: Keyspace, arguments: list[bytes]) -> list[Any]:
    return [b"0", _matching([key for key in list(keyspace.values) if keyspace.exists(key)], arguments[1:])]


def _matching(names: Iterable[bytes], options: list[bytes]) -> list[bytes]:
    patterns = []
    while options:
        match options:
            case [option, pattern, *options] if option.upper() == b"MATCH":
                patterns.append(re.compile(fnmatch.translate(pattern.decode("latin-1")).encode("latin-1")))
            case [option, count, *options] if option.upper() == b"COUNT":
                if _integer(count) < 1:
                    raise RedisError(SYNTAX)
            case _:
                raise RedisError(SYNTAX)
    return [name for name in names if all(pattern.match(name) for pattern in patterns)]


@_command("MEMORY", at_least=1)
def _memory(keyspace: Keyspace, arguments: list[bytes]) -> int | None:
    subcommand, key, *_ = [arguments[0].upper(), *arguments[1:]]
    if subcommand != b"USAGE":
        raise KeyError(subcommand)
    if not keyspace.exists(key):
        return None
    value = keyspace.values[key]
    return 100 + (value.bytes if isinstance(value, Stream) else len(value) * (1 if isinstance(value, bytes) else 50))


# Strings


@_command("GET", at_least=1, at_most=1)
def _get(keyspace: Keyspace, arguments: list[bytes]) -> bytes | None:
    return keyspace.get(arguments[0], bytes)  # type: ignore[no-any-return]


@_command("MGET", at_least=1)
def _mget(keyspace: Keyspace, arguments: list[bytes]) -> list[bytes | None]:
    found = [keyspace.values.get(key) if keyspace.exists(key) else None for key in arguments]
    return [value if isinstance(value, bytes) else None for value in found]


@_command("SET", at_least=2, writes=True)
def _set(keyspace: Keyspace, arguments: list[bytes]) -> Any:
    key, value, *options = arguments
    expires: int | None = None
    absent = present = keeps = gives = False
    while options:
        match [options[0].upper(), *options[1:]]:
            case [b"EX" | b"PX" as unit, number, *options] if expires is None:
                if (span := _integer(number)) <= 0:
                    raise RedisError("ERR invalid expire time in set")
                expires = keyspace.now + span * (1000 if unit == b"EX" else 1)
            case [b"NX", *options] if not present:
                absent = True
            case [b"XX", *options] if not absent:
                present = True
            case [b"KEEPTTL", *options]:
                keeps = True
            case [b"GET", *options]:
                gives = True
            case _:
                raise RedisError(SYNTAX)
    if gives and absent:
        raise RedisError(SYNTAX)
    former = keyspace.get(key, bytes) if gives else None
    if (absent and keyspace.exists(key)) or (present and not keyspace.exists(key)):
        return former
    keyspace.values[key] = value
    if not keeps:
        keyspace.expires.pop(key, None)
    if expires is not None:
        keyspace.expires[key] = expires
    return former if gives else OK


@_command("INCR", at_least=1, at_most=1, writes=True)
def _incr(keyspace: Keyspace, arguments: list[bytes]) -> int:
    return _incrby(keyspace, [arguments[0], b"1"])


@_command("INCRBY", at_least=2, at_most=2, writes=True)
def _incrby(keyspace: Keyspace, arguments: list[bytes]) -> int:
    number = _integer(keyspace.get(arguments[0], bytes) or b"0") + _integer(arguments[1])
    keyspace.values[arguments[0]] = b"%d" % number
    return number


# Hashes


@_command("HSET", at_least=3, writes=True)
def _hset(keyspace: Keyspace, arguments: list[bytes]) -> int:
    if len(arguments) % 2 == 0:
        raise RedisError("ERR wrong number of arguments for 'hset' command")
    fields = keyspace.need(arguments[0], dict)
    before = len(fields)
    fields.update(_pairs(arguments[1:]))
    return len(fields) - before


@_command("HSETNX", at_least=3, at_most=3, writes=True)
def _hsetnx(keyspace: Keyspace, arguments: list[bytes]) -> int:
    fields = keyspace.need(arguments[0], dict)
    before = len(fields)
    fields.setdefault(arguments[1], arguments[2])
    return len(fields) - before


@_command("HGET", at_least=2, at_most=2)
def _hget(keyspace: Keyspace, arguments: list[bytes]) -> bytes | None:
    return (keyspace.get(arguments[0], dict) or {}).get(arguments[1])  # type: ignore[no-any-return]


@_command("HMGET", at_least=2)
def _hmget(keyspace: Keyspace, arguments: list[bytes]) -> list[bytes | None]:
    fields = keyspace.get(arguments[0], dict) or {}
    return [fields.get(field) for field in arguments[1:]]


@_command("HEXISTS", at_least=2, at_most=2)
def _hexists(keyspace: Keyspace, arguments: list[bytes]) -> int:
    return int(arguments[1] in (keyspace.get(arguments[0], dict) or {}))


@_command("HDEL", at_least=2, writes=True)
def _hdel(keyspace: Keyspace, arguments: list[bytes]) -> int:
    fields = keyspace.get(arguments[0], dict) or {}
    removed = sum(fields.pop(field, None) is not None for field in arguments[1:])
    keyspace.drop_if_empty(arguments[0])
    return removed


@_command("HGETALL", at_least=1, at_most=1)
def _hgetall(keyspace: Keyspace, arguments: list[bytes]) -> list[bytes]:
    return [item for pair in (keyspace.get(arguments[0], dict) or {}).items() for item in pair]


@_command("HKEYS", at_least=1, at_most=1)
def _hkeys(keyspace: Keyspace, arguments: list[bytes]) -> list[bytes]:
    return list(keyspace.get(arguments[0], dict) or {})


@_command("HVALS", at_least=1, at_most=1)
def _hvals(keyspace: Keyspace, arguments: list[bytes]) -> list[bytes]:
    return list((keyspace.get(arguments[0], dict) or {}).values())


@_command("HLEN", at_least=1, at_most=1)
def _hlen(keyspace: Keyspace, arguments: list[bytes]) -> int:
    return len(keyspace.get(arguments[0], dict) or {})


@_command("HSCAN", at_least=2)
def _hscan(keyspace: Keyspace, arguments: list[bytes]) -> list[Any]:
    fields = keyspace.get(arguments[0], dict) or {}
    return [b"0", [item for name in _matching(fields, arguments[2:]) for item in (name, fields[name])]]


# Sets


@_command("SADD", at_least=2, writes=True)
def _sadd(keyspace: Keyspace, arguments: list[bytes]) -> int:
    members = keyspace.need(arguments[0], set)
    before = len(members)
    members.update(arguments[1:])
    return len(members) - before


@_command("SREM", at_least=2, writes=True)
def _srem(keyspace: Keyspace, arguments: list[bytes]) -> int:
    members = keyspace.get(arguments[0], set) or set()
    before = len(members)
    members.difference_update(arguments[1:])
    removed = before - len(members)
    keyspace.drop_if_empty(arguments[0])
    return removed


@_command("SMEMBERS", at_least=1, at_most=1)
def _smembers(keyspace: Keyspace, arguments: list[bytes]) -> list[bytes]:
    # Redis has an order of its own; one that is drawn from hashes would make no two runs alike.
    return sorted(keyspace.get(arguments[0], set) or ())


@_command("SISMEMBER", at_least=2, at_most=2)
def _sismember(keyspace: Keyspace, arguments: list[bytes]) -> int:
    return int(arguments[1] in (keyspace.get(arguments[0], set) or ()))


@_command("SCARD", at_least=1, at_most=1)
def _scard(keyspace: Keyspace, arguments: list[bytes]) -> int:
    return len(keyspace.get(arguments[0], set) or ())


# Streams


def _options_of_trimming(
    arguments: list[bytes], others: dict[bytes, bool]
) -> tuple[tuple[Any, ...] | None, list[bytes]]:
    """Read what XADD and XTRIM have in common; gives how to trim and the rest."""
    trimming: tuple[Any, ...] | None = None
    limit: int | None = None
    while arguments:
        match [arguments[0].upper(), *arguments[1:]]:
            case [b"MAXLEN" | b"MINID" as kind, b"=" | b"~" as how, threshold, *arguments]:
                trimming = kind, how == b"~", threshold
            case [b"MAXLEN" | b"MINID" as kind, threshold, *arguments]:
                trimming = kind, False, threshold
            case [b"LIMIT", number, *arguments]:
                limit = _integer(number)
                if limit < 0:
                    raise RedisError("ERR The LIMIT argument must be >= 0.")
            case [name, *others_behind] if name in others:
                others[name], arguments = True, others_behind
            case _:
                break
    if trimming is None:
        if limit is not None:
            raise RedisError("ERR syntax error, LIMIT cannot be used without specifying a trimming strategy")
        return None, arguments
    kind, approximately, threshold = trimming
    if limit is not None and not approximately:
        raise RedisError("ERR syntax error, LIMIT cannot be used without the special ~ option")
    if kind == b"MAXLEN":
        number = _integer(threshold)
        if number < 0:
            raise RedisError("ERR The MAXLEN argument must be >= 0.")
        threshold = number
    else:
        threshold = read_id(threshold)
    return (kind, approximately, threshold, TRIM_LIMIT if limit is None else limit), arguments


def _trim(stream: Stream, trimming: tuple[Any, ...]) -> int:
    kind, approximately, threshold, limit = trimming
    superfluous = len(stream.ids) - threshold if kind == b"MAXLEN" else bisect_left(stream.ids, threshold)
    return stream.trim(max(0, superfluous), approximately=approximately, limit=limit)


@_command("XADD", at_least=4, writes=True)
def _xadd(keyspace: Keyspace, arguments: list[bytes]) -> bytes | None:
    key, *rest = arguments
    others = {b"NOMKSTREAM": False}
    trimming, rest = _options_of_trimming(rest, others)
    if not rest:
        raise RedisError(SYNTAX)
    wanted, *fields = rest
    asked = None if wanted == b"*" else read_id(wanted)
    if not fields or len(fields) % 2:
        raise RedisError("ERR wrong number of arguments for 'xadd' command")
    if asked == (0, 0):
        raise RedisError("ERR The ID specified in XADD must be greater than 0-0")
    stream = keyspace.get(key, Stream)
    if stream is None:
        if others[b"NOMKSTREAM"]:
            return None
        stream = keyspace.need(key, Stream)
    if asked is None:
        milliseconds, sequence = stream.last_id
        asked = (keyspace.now, 0) if keyspace.now > milliseconds else (milliseconds, sequence + 1)
    elif asked <= stream.last_id:
        raise RedisError("ERR The ID specified in XADD is equal or smaller than the target stream top item")
    stream.append(asked, fields)
    if trimming is not None:
        _trim(stream, trimming)
    return show(asked)


@_command("XTRIM", at_least=3, writes=True)
def _xtrim(keyspace: Keyspace, arguments: list[bytes]) -> int:
    trimming, rest = _options_of_trimming(arguments[1:], {})
    if rest or trimming is None:
        raise RedisError(SYNTAX)
    stream = keyspace.get(arguments[0], Stream)
    return 0 if stream is None else _trim(stream, trimming)


@_command("XDEL", at_least=2, writes=True)
def _xdel(keyspace: Keyspace, arguments: list[bytes]) -> int:
    stream = keyspace.get(arguments[0], Stream)
    if stream is None:
        return 0
    removed = 0
    for entry_id in map(read_id, arguments[1:]):
        index = bisect_left(stream.ids, entry_id)
        if index < len(stream.ids) and stream.ids[index] == entry_id:
            stream.bytes -= len(stream.entries[index])
            del stream.ids[index], stream.entries[index]
            removed += 1
    return removed


@_command("XLEN", at_least=1, at_most=1)
def _xlen(keyspace: Keyspace, arguments: list[bytes]) -> int:
    stream = keyspace.get(arguments[0], Stream)
    return 0 if stream is None else len(stream.ids)


def _bound(text: bytes, sequence: int, step: int) -> Id:
    """One end of a range; `sequence` is what is meant where the second number is left out."""
    if text in (b"-", b"+"):
        return (0, 0) if text == b"-" else LAST_ID
    if not text.startswith(b"("):
        return read_id(text, sequence)
    milliseconds, number = read_id(text[1:], sequence)
    number += step
    if not 0 <= number <= MAX_SEQUENCE:
        milliseconds, number = milliseconds + step, 0 if step > 0 else MAX_SEQUENCE
    if not 0 <= milliseconds <= MAX_SEQUENCE:
        raise RedisError(f"ERR invalid {'start' if step > 0 else 'end'} ID for the interval")
    return milliseconds, number


def _range(keyspace: Keyspace, key: bytes, first: bytes, last: bytes, options: list[bytes], step: int) -> Any:
    start, end = _bound(first, 0, 1), _bound(last, MAX_SEQUENCE, -1)
    count: int | None = None
    while options:
        match [options[0].upper(), *options[1:]]:
            case [b"COUNT", number, *options]:
                count = max(0, _integer(number))
            case _:
                raise RedisError(SYNTAX)
    stream = keyspace.get(key, Stream)
    if stream is None:
        return []
    return NO_ARRAY if count == 0 else stream.between(start, end)[::step][:count]


@_command("XRANGE", at_least=3)
def _xrange(keyspace: Keyspace, arguments: list[bytes]) -> Any:
    key, first, last, *options = arguments
    return _range(keyspace, key, first, last, options, 1)


@_command("XREVRANGE", at_least=3)
def _xrevrange(keyspace: Keyspace, arguments: list[bytes]) -> Any:
    key, last, first, *options = arguments
    return _range(keyspace, key, first, last, options, -1)


@_command("XINFO", at_least=1)
def _xinfo(keyspace: Keyspace, arguments: list[bytes]) -> list[Any]:
    if arguments[0].upper() != b"STREAM" or len(arguments) != 2:
        raise KeyError(arguments[0])
    stream = keyspace.get(arguments[1], Stream)
    if stream is None:
        raise RedisError("ERR no such key")
    facts = {
        b"length": len(stream.ids),
        b"radix-tree-keys": -(-len(stream.ids) // NODE_ENTRIES),
        b"radix-tree-nodes": -(-len(stream.ids) // NODE_ENTRIES) + 1,
        b"last-generated-id": show(stream.last_id),
        b"groups": 0,
        b"first-entry": stream.entries[0] if stream.entries else None,
        b"last-entry": stream.entries[-1] if stream.entries else None,
    }
    return [item for pair in facts.items() for item in pair]


class Reading:
    """An XREAD: what it wants, and whether it waits for it."""

    def __init__(self, keyspace: Keyspace, arguments: list[bytes]) -> None:
        self.count: int | None = None
        # Milliseconds to wait, 0 for ever; None: not at all.
        self.block: int | None = None
        self.after: dict[bytes, Id] = {}
        rest = arguments
        while rest:
            match [rest[0].upper(), *rest[1:]]:
                case [b"COUNT", number, *rest]:
                    self.count = max(0, _integer(number)) or None
                case [b"BLOCK", number, *rest]:
                    self.block = _integer(number, "ERR timeout is not an integer or out of range")
                    if self.block < 0:
                        raise RedisError("ERR timeout is negative")
                case [b"STREAMS", *streams]:
                    if not streams or len(streams) % 2:
                        raise RedisError(
                            "ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified."
                        )
                    half = len(streams) // 2
                    for key, after in zip(streams[:half], streams[half:], strict=True):
                        stream = keyspace.get(key, Stream)
                        if after == b"$":
                            self.after[key] = (0, 0) if stream is None else stream.last_id
                        else:
                            self.after[key] = read_id(after)
                    return
                case _:
                    break
        raise RedisError(SYNTAX)

    def ready(self, keyspace: Keyspace, keys: Iterable[bytes]) -> list[Any] | None:
        """What there is to read of some of its streams; None, if nothing is."""
        found = []
        for key in keys:
            stream = keyspace.get(key, Stream)
            if stream is None or stream.last_id <= self.after[key]:
                continue
            milliseconds, sequence = self.after[key]
            if entries := stream.between((milliseconds, sequence + 1), LAST_ID, self.count):
                found.append([key, entries])
        return found or None
