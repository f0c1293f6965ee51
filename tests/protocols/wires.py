"""The same frame on both wires, row by row.

The protobuf column is written field by field from the tables of the client protocol, by functions that
know the wire format and nothing of the schema: a field number that is wrong in the schema shows here.
"""

from __future__ import annotations

from base64 import b64decode
from typing import NamedTuple

from hubs.protocols.frames import (
    BINARY,
    JSON,
    PROTOBUF,
    TEXT,
    Ack,
    CancelInvocation,
    Connected,
    Disconnected,
    Downstream,
    GroupMessage,
    Invoke,
    InvokeResponse,
    JoinGroup,
    LeaveGroup,
    Payload,
    Ping,
    Pong,
    SendToGroup,
    SequenceAck,
    ServerMessage,
    Upstream,
    UserEvent,
)
from tests.protocols.vectors import MAX_UINT64


def varint(value: int) -> bytes:
    """Seven bits a byte, least significant first."""
    rest, low = divmod(value, 128)
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def number(field: int, value: int) -> bytes:
    """A field that is a number or a flag."""
    return varint(field * 8) + varint(value)


def field(number: int, *parts: bytes | str) -> bytes:
    """A field that is a text, bytes or a message of further fields."""
    body = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    return varint(number * 8 + 2) + varint(len(body)) + body


class UpstreamWires(NamedTuple):
    """A frame as JSON clients and as protobuf clients send it. `None`: there is no such message."""

    name: str
    frame: Upstream
    json: str
    protobuf: bytes | None


ANY = b"\n\x04type\x12\x03\0\xff\1"
ANY_BASE64 = "CgR0eXBlEgMA/wE="

UPSTREAM_WIRES = [
    UpstreamWires("join", JoinGroup("group"), '{"type":"joinGroup","group":"group"}', b64decode("MgcKBWdyb3Vw")),
    UpstreamWires(
        "join with ack",
        JoinGroup("group", 44133),
        '{"type":"joinGroup","group":"group","ackId":44133}',
        b64decode("MgsKBWdyb3VwEOXYAg=="),
    ),
    UpstreamWires(
        "join with ack 0",
        JoinGroup("room", 0),
        '{"type":"joinGroup","group":"room","ackId":0}',
        bytes.fromhex("32080A04726F6F6D1000"),
    ),
    UpstreamWires(
        "leave",
        LeaveGroup("group", 12345),
        '{"type":"leaveGroup","group":"group","ackId":12345}',
        b64decode("OgoKBWdyb3VwELlg"),
    ),
    UpstreamWires("leave without ack", LeaveGroup("é"), '{"type":"leaveGroup","group":"é"}', field(7, field(1, "é"))),
    UpstreamWires(
        "send text",
        SendToGroup("group", Payload(TEXT, b"xzy")),
        '{"type":"sendToGroup","group":"group","dataType":"text","data":"xzy"}',
        b64decode("Cg4KBWdyb3VwGgUKA3h6eQ=="),
    ),
    UpstreamWires(
        "send json without echo",
        SendToGroup("group", Payload(JSON, b'{"value":"xzy"}'), 12345, True),
        '{"type":"sendToGroup","group":"group","dataType":"json","data":{"value":"xzy"},"ackId":12345,"noEcho":true}',
        b64decode("Ch8KBWdyb3VwELlgGhEiD3sidmFsdWUiOiJ4enkifSAB"),
    ),
    UpstreamWires(
        "send with everything",
        SendToGroup("g", Payload(BINARY, b"\0\xff"), MAX_UINT64, True, 300, {"A": "1", "b": ""}),
        '{"type":"sendToGroup","group":"g","dataType":"binary","data":"AP8=","ackId":18446744073709551615,'
        '"noEcho":true,"ttlSeconds":300,"metadata":{"A":"1","b":""}}',
        field(
            1,
            field(1, "g"),
            number(2, MAX_UINT64),
            field(3, field(2, b"\0\xff")),
            number(4, 1),
            number(5, 300),
            field(6, field(1, "A"), field(2, "1")),
            field(6, field(1, "b"), field(2, "")),
        ),
    ),
    UpstreamWires(
        "send with ttl 0",
        SendToGroup("g", Payload(TEXT, b""), ttl_secs=0),
        '{"type":"sendToGroup","group":"g","dataType":"text","data":"","ttlSeconds":0}',
        field(1, field(1, "g"), field(3, field(1, "")), number(5, 0)),
    ),
    UpstreamWires(
        "send an Any",
        SendToGroup("g", Payload(PROTOBUF, ANY)),
        f'{{"type":"sendToGroup","group":"g","dataType":"protobuf","data":"{ANY_BASE64}"}}',
        field(1, field(1, "g"), field(3, field(3, field(1, "type"), field(2, b"\0\xff\1")))),
    ),
    UpstreamWires(
        "event",
        UserEvent("ev", Payload(TEXT, "é👋".encode()), 5, {"a": "b"}),
        '{"type":"event","event":"ev","dataType":"text","data":"é👋","ackId":5,"metadata":{"a":"b"}}',
        field(5, field(1, "ev"), field(2, field(1, "é👋")), number(3, 5), field(4, field(1, "a"), field(2, "b"))),
    ),
    UpstreamWires(
        "event, empty binary",
        UserEvent("ev", Payload(BINARY, b"")),
        '{"type":"event","event":"ev","dataType":"binary","data":""}',
        field(5, field(1, "ev"), field(2, field(2, b""))),
    ),
    UpstreamWires(
        "sequence ack", SequenceAck(123456), '{"type":"sequenceAck","sequenceId":123456}', b64decode("QgQIwMQH")
    ),
    UpstreamWires("ping", Ping(), '{"type":"ping"}', bytes.fromhex("4A00")),
    UpstreamWires(
        "invoke",
        Invoke("7", "ev", Payload(JSON, b"[1]"), {"a": "b"}),
        '{"type":"invoke","invocationId":"7","target":"event","event":"ev","dataType":"json","data":[1],'
        '"metadata":{"a":"b"}}',
        field(
            10,
            field(1, "ev"),
            field(2, "7"),
            field(3, field(4, "[1]")),
            field(4, field(1, "a"), field(2, "b")),
        ),
    ),
    UpstreamWires(
        "invoke without data",
        Invoke("7", "ev"),
        '{"type":"invoke","invocationId":"7","target":"event","event":"ev"}',
        field(10, field(1, "ev"), field(2, "7")),
    ),
    UpstreamWires(
        "cancel invocation",
        CancelInvocation("7"),
        '{"type":"cancelInvocation","invocationId":"7"}',
        field(11, field(1, "7")),
    ),
    UpstreamWires(
        "invoke response",
        InvokeResponse("7", Payload(TEXT, b"x")),
        '{"type":"invokeResponse","invocationId":"7","success":true,"dataType":"text","data":"x"}',
        None,
    ),
    UpstreamWires(
        "invoke response of a failure",
        InvokeResponse("7", None, "n", "m"),
        '{"type":"invokeResponse","invocationId":"7","success":false,"error":{"name":"n","message":"m"}}',
        None,
    ),
]

# Other protobuf messages that say the same as a row above would, or say it in another way.
UPSTREAM_PROTOBUF: dict[str, tuple[bytes, Upstream]] = {
    "metadata without data is an empty text": (
        field(5, field(1, "ev"), field(4, field(1, "a"), field(2, "b"))),
        UserEvent("ev", Payload(TEXT, b""), metadata={"a": "b"}),
    ),
    "metadata alone invokes with no payload": (
        field(10, field(1, "ev"), field(2, "7"), field(4, field(1, "a"), field(2, "b"))),
        Invoke("7", "ev", None, {"a": "b"}),
    ),
    "json with white space around it": (
        field(5, field(1, "ev"), field(2, field(4, " \n[1, 2]\t"))),
        UserEvent("ev", Payload(JSON, b"[1, 2]")),
    ),
    "echo asked for": (
        field(1, field(1, "g"), field(3, field(1, "x")), number(4, 0)),
        SendToGroup("g", Payload(TEXT, b"x")),
    ),
    "fields in another order": (number(99, 1) + field(6, number(2, 3), field(1, "g")), JoinGroup("g", 3)),
    "the last of several texts": (field(6, field(1, "a"), field(1, "b")), JoinGroup("b")),
    "the last of several messages": (field(9) + field(6, field(1, "a")), JoinGroup("a")),
    "the last of several data": (
        field(5, field(1, "ev"), field(2, field(1, "x"), field(2, b"y"))),
        UserEvent("ev", Payload(BINARY, b"y")),
    ),
    "the last of a metadata key": (
        field(5, field(1, "ev"), field(2, field(1, "")), *(field(4, field(1, "a"), field(2, value)) for value in "12")),
        UserEvent("ev", Payload(TEXT, b""), metadata={"a": "2"}),
    ),
    "sequence ack 0": (field(8), SequenceAck(0)),
    "greatest sequence ack": (field(8, number(1, MAX_UINT64)), SequenceAck(MAX_UINT64)),
    "an Any of nothing": (
        field(5, field(1, "ev"), field(2, field(3))),
        UserEvent("ev", Payload(PROTOBUF, b"")),
    ),
    "an Any with fields unknown here": (
        field(5, field(1, "ev"), field(2, field(3, field(1, "t"), number(9, 1)))),
        UserEvent("ev", Payload(PROTOBUF, field(1, "t") + number(9, 1))),
    ),
    "a varint longer than need be": (b"\x32\x83\x00" + field(1, "g"), JoinGroup("g")),
}

_TEXT = field(3, field(1, "x"))
_GROUP = field(1, "g")
_EVENT = field(1, "e")
_EVENT_TEXT = field(2, field(1, "x"))

# Each ends the connection with 1007, on both wires. None: this wire cannot say it, or it is in vectors.MALFORMED.
MALFORMED_WIRES: dict[str, tuple[str | None, bytes | None]] = {
    "nothing": ("", b""),
    "join without group": ('{"type":"joinGroup"}', bytes.fromhex("3200")),
    "leave without group": ('{"type":"leaveGroup"}', field(7)),
    "join with an empty group": ('{"type":"joinGroup","group":""}', field(6, field(1, ""))),
    "group of white space": ('{"type":"joinGroup","group":"  "}', field(6, field(1, "  "))),
    "group too long": (f'{{"type":"joinGroup","group":"{"g" * 1025}"}}', field(6, field(1, "g" * 1025))),
    "send without group": ('{"type":"sendToGroup","data":1}', field(1, _TEXT)),
    "send without data": ('{"type":"sendToGroup","group":"g"}', field(1, _GROUP)),
    "send with empty data": (None, field(1, _GROUP, field(3))),
    "send with empty data and metadata": (
        '{"type":"sendToGroup","group":"g","data":null,"metadata":{"a":"b"}}',
        field(1, _GROUP, field(3), field(6, field(1, "a"), field(2, "b"))),
    ),
    "send with data of no known type": (
        '{"type":"sendToGroup","group":"g","dataType":"xml","data":"x"}',
        field(1, _GROUP, field(3, field(5, "x"))),
    ),
    "ttl too long": (
        '{"type":"sendToGroup","group":"g","data":1,"ttlSeconds":301}',
        field(1, _GROUP, _TEXT, number(5, 301)),
    ),
    "ttl of 32 bits": (
        '{"type":"sendToGroup","group":"g","data":1,"ttlSeconds":4294967295}',
        field(1, _GROUP, _TEXT, number(5, 2**32 - 1)),
    ),
    "a stream begins": (
        '{"type":"sendToGroup","group":"room","noEcho":true,"stream":{"streamId":"s","idleTimeoutMs":300000}}',
        bytes.fromhex("0a110a04726f6f6d20013a070a017310e0a712"),
    ),
    "a stream begins, with metadata": (
        '{"type":"sendToGroup","group":"g","stream":{"streamId":"s"},"metadata":{"a":"b"}}',
        field(1, _GROUP, field(6, field(1, "a"), field(2, "b")), field(7, field(1, "s"))),
    ),
    "a stream of an event": (
        '{"type":"event","event":"e","data":1,"stream":{"streamId":"s"}}',
        field(5, _EVENT, _EVENT_TEXT, field(5, field(1, "s"))),
    ),
    "a stream of an invocation": (
        '{"type":"invoke","invocationId":"1","target":"event","event":"e","stream":{"streamId":"s"}}',
        field(10, _EVENT, field(2, "1"), field(5)),
    ),
    "a stream's data": ('{"type":"streamData","streamId":"s"}', field(13, field(1, "s"))),
    "a stream's end": ('{"type":"streamEnd","streamId":"s"}', field(14, field(1, "s"))),
    "group state": (
        '{"type":"setGroupState","group":"chat-room","ackId":1,"state":{"activity":"typing"}}',
        b64decode("eiMKCWNoYXQtcm9vbRABGhQKEgoIYWN0aXZpdHkSBnR5cGluZw=="),
    ),
    "subscribe to group state": ('{"type":"subscribeGroupState","group":"g"}', field(16, _GROUP)),
    "unsubscribe from group state": ('{"type":"unsubscribeGroupState","group":"g"}', field(17, _GROUP)),
    "unknown message": ('{"type":"x"}', field(12, _GROUP)),
    "unknown message of the future": (None, field(1000, _GROUP)),
    "event without data": ('{"type":"event","event":"e"}', field(5, _EVENT)),
    "event without name": ('{"type":"event","data":1}', field(5, _EVENT_TEXT)),
    "bad event name": ('{"type":"event","event":"a b","data":1}', field(5, field(1, "a b"), _EVENT_TEXT)),
    "event name too long": (
        f'{{"type":"event","event":"{"e" * 129}","data":1}}',
        field(5, field(1, "e" * 129), _EVENT_TEXT),
    ),
    "invoke without id": ('{"type":"invoke","target":"event","event":"e"}', field(10, _EVENT)),
    "invoke without event": ('{"type":"invoke","invocationId":"1","target":"event"}', field(10, field(2, "1"))),
    "invoke with a bad event name": (
        '{"type":"invoke","invocationId":"1","target":"event","event":"1"}',
        field(10, field(1, "1"), field(2, "1")),
    ),
    "invoke with empty data": (
        '{"type":"invoke","invocationId":"1","target":"event","event":"e","data":null}',
        field(10, _EVENT, field(2, "1"), field(3)),
    ),
    "invocation id too long": (
        f'{{"type":"cancelInvocation","invocationId":"{"é" * 1025}"}}',
        field(11, field(1, "é" * 1025)),
    ),
    "cancel without id": ('{"type":"cancelInvocation"}', field(11)),
}


def _metadata(key: str, value: str) -> tuple[str, bytes]:
    pair = field(4, field(1, key), field(2, value))
    return f'{{"type":"event","event":"e","data":1,"metadata":{{"{key}":"{value}"}}}}', field(
        5, _EVENT, _EVENT_TEXT, pair
    )


MALFORMED_WIRES |= {
    "metadata key empty": _metadata("", "v"),
    "metadata key with a colon": _metadata("a:b", "v"),
    "metadata key not ASCII": _metadata("é", "v"),
    "metadata key too long": _metadata("k" * 257, "v"),
    "metadata value not ASCII": _metadata("a", "é"),
    "metadata value too long": _metadata("a", "v" * 1025),
    "metadata beyond 8 KiB": (
        None,
        field(5, _EVENT, _EVENT_TEXT, *(field(4, field(1, f"k{key}"), field(2, "v" * 1023)) for key in range(8))),
    ),
}

# What json_data may not be: it is to be spliced into the messages of JSON clients.
NO_JSON = {
    "nothing": "",
    "white space": " ",
    "null": "null",
    "null with white space": " null\n",
    "a word": "hello",
    "cut off": '{"a":1',
    "two values": "1 2",
    "a member more": '1,"from":"server"',
    "closing early": '1},"x":{"y":1',
    "leading zero": "01",
    "NaN": "NaN",
    "single quotes": "'a'",
    "half a surrogate pair": r'"\ud800"',
    "raw control character": '"a\nb"',
    "byte order mark": "\ufeff1",
    "deep": "[" * 100_000 + "]" * 100_000,
}


class DownstreamWires(NamedTuple):
    """A frame, and the exact messages that JSON clients and protobuf clients get."""

    name: str
    frame: Downstream
    json: str
    protobuf: bytes


DOWNSTREAM_WIRES = [
    DownstreamWires(
        "connected",
        Connected("connection", "user", "rec"),
        '{"type":"system","event":"connected","userId":"user","connectionId":"connection","reconnectionToken":"rec"}',
        b64decode("GhkKFwoKY29ubmVjdGlvbhIEdXNlchoDcmVj"),
    ),
    DownstreamWires(
        "connected, anonymous",
        Connected("c"),
        '{"type":"system","event":"connected","userId":null,"connectionId":"c"}',
        field(3, field(1, field(1, "c"))),
    ),
    DownstreamWires(
        "disconnected",
        Disconnected("msg"),
        '{"type":"system","event":"disconnected","message":"msg"}',
        b64decode("GgcSBRIDbXNn"),
    ),
    DownstreamWires(
        "disconnected, no reason",
        Disconnected(""),
        '{"type":"system","event":"disconnected","message":""}',
        field(3, field(2)),
    ),
    DownstreamWires("ack", Ack(123), '{"type":"ack","ackId":123,"success":true}', b64decode("CgQIexAB")),
    DownstreamWires("ack 0", Ack(0), '{"type":"ack","ackId":0,"success":true}', field(1, number(2, 1))),
    DownstreamWires(
        "greatest ack",
        Ack(MAX_UINT64),
        '{"type":"ack","ackId":18446744073709551615,"success":true}',
        field(1, number(1, MAX_UINT64), number(2, 1)),
    ),
    DownstreamWires(
        "ack of a failure",
        Ack(123, "Forbidden", "message"),
        '{"type":"ack","ackId":123,"success":false,"error":{"name":"Forbidden","message":"message"}}',
        field(1, number(1, 123), field(3, field(1, "Forbidden"), field(2, "message"))),
    ),
    DownstreamWires(
        "group message",
        GroupMessage("groupName", Payload(TEXT, b"xyz")),
        '{"type":"message","from":"group","group":"groupName","dataType":"text","data":"xyz"}',
        field(2, field(1, "group"), field(2, "groupName"), field(3, field(1, "xyz"))),
    ),
    DownstreamWires(
        "group message of a user, with metadata",
        GroupMessage("g", Payload(JSON, b'{"a": 1}'), "u", {"b": "2", "a": ""}),
        '{"type":"message","from":"group","group":"g","fromUserId":"u","dataType":"json","data":{"a": 1},'
        '"metadata":{"b":"2","a":""}}',
        field(
            2,
            field(1, "group"),
            field(2, "g"),
            field(3, field(4, '{"a": 1}')),
            field(5, field(1, "a"), field(2, "")),
            field(5, field(1, "b"), field(2, "2")),
        ),
    ),
    DownstreamWires(
        "server message",
        ServerMessage(Payload(BINARY, b"\0\xff")),
        '{"type":"message","from":"server","dataType":"binary","data":"AP8="}',
        field(2, field(1, "server"), field(3, field(2, b"\0\xff"))),
    ),
    DownstreamWires(
        "server message, an Any",
        ServerMessage(Payload(PROTOBUF, ANY)),
        f'{{"type":"message","from":"server","dataType":"protobuf","data":"{ANY_BASE64}"}}',
        field(2, field(1, "server"), field(3, field(3, field(1, "type"), field(2, b"\0\xff\1")))),
    ),
    DownstreamWires(
        "empty text",
        ServerMessage(Payload(TEXT, b"")),
        '{"type":"message","from":"server","dataType":"text","data":""}',
        field(2, field(1, "server"), field(3, field(1, ""))),
    ),
    DownstreamWires(
        "empty binary",
        ServerMessage(Payload(BINARY, b"")),
        '{"type":"message","from":"server","dataType":"binary","data":""}',
        field(2, field(1, "server"), field(3, field(2, ""))),
    ),
    DownstreamWires("pong", Pong(), '{"type":"pong"}', field(4)),
    DownstreamWires(
        "invoke response",
        InvokeResponse("7", Payload(JSON, b"[1]"), metadata={"a": "b"}),
        '{"type":"invokeResponse","invocationId":"7","success":true,"dataType":"json","data":[1],"metadata":{"a":"b"}}',
        field(5, field(1, "7"), number(2, 1), field(3, field(4, "[1]")), field(5, field(1, "a"), field(2, "b"))),
    ),
    DownstreamWires(
        "invoke response without payload",
        InvokeResponse("7"),
        '{"type":"invokeResponse","invocationId":"7","success":true}',
        field(5, field(1, "7"), number(2, 1)),
    ),
    DownstreamWires(
        "invoke response of a failure",
        InvokeResponse("7", None, "NotFound", "m"),
        '{"type":"invokeResponse","invocationId":"7","success":false,"error":{"name":"NotFound","message":"m"}}',
        field(5, field(1, "7"), field(4, field(1, "NotFound"), field(2, "m"))),
    ),
]


class Stamped(NamedTuple):
    """A data frame, its number for one client, and what that client gets."""

    frame: Downstream
    sequence_id: int
    json: str
    protobuf: bytes


STAMPED = [
    Stamped(
        GroupMessage("groupName", Payload(TEXT, b"xyz")),
        12345,
        '{"type":"message","from":"group","group":"groupName","dataType":"text","data":"xyz","sequenceId":12345}',
        b64decode("EhwKBWdyb3VwEglncm91cE5hbWUaBQoDeHl6ILlg"),
    ),
    Stamped(
        ServerMessage(Payload(TEXT, b"}"), {"a": "}"}),
        MAX_UINT64,
        '{"type":"message","from":"server","dataType":"text","data":"}","metadata":{"a":"}"},'
        '"sequenceId":18446744073709551615}',
        field(
            2,
            field(1, "server"),
            field(3, field(1, "}")),
            field(5, field(1, "a"), field(2, "}")),
            number(4, MAX_UINT64),
        ),
    ),
]


class Conversion(NamedTuple):
    """A payload from one kind of client, and as every other kind gets it.

    `sent_json`, `sent_protobuf`: the members, the MessageData; None where such a client cannot say this.
    `json`: dataType and data; `protobuf`: the MessageData; `simple`: the message of a simple client.
    """

    name: str
    sent_json: str | None
    sent_protobuf: bytes | None
    json: str
    protobuf: bytes
    simple: str | bytes


CONVERSIONS = [
    Conversion(
        "text",
        '"dataType":"text","data":"é\\n"',
        field(1, "é\n"),
        '"dataType":"text","data":"é\\n"',
        field(1, "é\n"),
        "é\n",
    ),
    Conversion(
        "text that is JSON",
        '"dataType":"text","data":"{}"',
        field(1, "{}"),
        '"dataType":"text","data":"{}"',
        field(1, "{}"),
        "{}",
    ),
    Conversion(
        "JSON",
        '"dataType":"json","data":{"a" : 1e0}',
        field(4, '{"a" : 1e0}'),
        '"dataType":"json","data":{"a" : 1e0}',
        field(4, '{"a" : 1e0}'),
        '{"a" : 1e0}',
    ),
    Conversion(
        "JSON that is text", '"data":"é"', field(4, '"é"'), '"dataType":"json","data":"é"', field(4, '"é"'), '"é"'
    ),
    Conversion("JSON that looks empty", '"data":0', field(4, "0"), '"dataType":"json","data":0', field(4, "0"), "0"),
    Conversion(
        "binary",
        '"dataType":"binary","data":"AP8="',
        field(2, b"\0\xff"),
        '"dataType":"binary","data":"AP8="',
        field(2, b"\0\xff"),
        b"\0\xff",
    ),
    Conversion(
        "an Any",
        f'"dataType":"protobuf","data":"{ANY_BASE64}"',
        field(3, ANY),
        f'"dataType":"protobuf","data":"{ANY_BASE64}"',
        field(3, ANY),
        ANY,
    ),
    Conversion(
        "an Any of nothing",
        '"dataType":"protobuf","data":""',
        field(3),
        '"dataType":"protobuf","data":""',
        field(3),
        b"",
    ),
    Conversion(
        "protobuf that is no Any",
        '"dataType":"protobuf","data":"/////w=="',
        None,
        '"dataType":"protobuf","data":"/////w=="',
        field(2, b"\xff" * 4),
        b"\xff" * 4,
    ),
    Conversion(
        "protobuf whose type is no text",
        '"dataType":"protobuf","data":"CgH/"',
        None,
        '"dataType":"protobuf","data":"CgH/"',
        field(2, b"\n\1\xff"),
        b"\n\1\xff",
    ),
]
