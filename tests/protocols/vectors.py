"""What is on the wire, row by row, written from the client protocol's description.

A payload stands in a table of its own, because the same row is read from a client, written to a JSON
client and written to a simple one.
"""

from __future__ import annotations

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

MAX_UINT64 = 18446744073709551615


class PayloadRow(NamedTuple):
    """`data`: the JSON text of the member. `bare`: what a simple client gets."""

    name: str
    data_type: str
    data: str
    payload: Payload
    bare: str | bytes


def _json(name: str, data: str) -> PayloadRow:
    return PayloadRow(name, "json", data, Payload(JSON, data.encode()), data)


PAYLOADS = [
    _json("object", '{"value":"xzy","deep":[1,{"a":null}]}'),
    _json("empty object", "{}"),
    _json("array", '[1,"2",null,true]'),
    _json("string", '"hello"'),
    _json("empty string", '""'),
    _json("number", "1.5"),
    _json("zero", "0"),
    _json("false", "false"),
    _json("true", "true"),
    # Kept to the digit: no float or 64-bit integer stands between publisher and subscriber.
    _json("integer of 30 digits", "123456789012345678901234567890"),
    _json("number beyond a double", "1e999999"),
    _json("many decimals", "0.1000000000000000055511151231257827"),
    _json("negative zero", "-0"),
    _json("exponent as written", "1E+2"),
    _json("escapes as written", r'"\u00e9\/\ud83d\ude00"'),
    _json("inner spaces", '{ "a" : 1 }'),
    _json("same member twice", '{"a":1,"a":2}'),
    _json("unicode", '"héllo 👋 \u2028"'),
    _json("500 levels deep", "[" * 500 + "]" * 500),
    PayloadRow("text", "text", '"xyz"', Payload(TEXT, b"xyz"), "xyz"),
    PayloadRow("empty text", "text", '""', Payload(TEXT, b""), ""),
    PayloadRow("text with quotes", "text", r'"a\"b\\c\n"', Payload(TEXT, b'a"b\\c\n'), 'a"b\\c\n'),
    PayloadRow("text in many scripts", "text", '"ñ 中 👋"', Payload(TEXT, "ñ 中 👋".encode()), "ñ 中 👋"),
    PayloadRow("text that looks like JSON", "text", r'"{\"a\":1}"', Payload(TEXT, b'{"a":1}'), '{"a":1}'),
    PayloadRow("binary", "binary", '"AAECAw=="', Payload(BINARY, b"\0\1\2\3"), b"\0\1\2\3"),
    PayloadRow("empty binary", "binary", '""', Payload(BINARY, b""), b""),
    PayloadRow("binary that is no text", "binary", '"//79"', Payload(BINARY, b"\xff\xfe\xfd"), b"\xff\xfe\xfd"),
    PayloadRow("protobuf", "protobuf", '"CgR0eXBl"', Payload(PROTOBUF, b"\n\x04type"), b"\n\x04type"),
]


class UpstreamRow(NamedTuple):
    """A text message from a client and what it says."""

    name: str
    text: str
    frame: Upstream


_HELLO = Payload(JSON, b'"hi"')
_METADATA_8K = {f"k{number}": "v" * 1022 for number in range(8)}

UPSTREAM = [
    UpstreamRow("join", '{"type":"joinGroup","group":"g"}', JoinGroup("g")),
    UpstreamRow("join with ack", '{"type":"joinGroup","group":"g","ackId":1}', JoinGroup("g", 1)),
    UpstreamRow("ack 0", '{"type":"joinGroup","group":"g","ackId":0}', JoinGroup("g", 0)),
    UpstreamRow("greatest ack", f'{{"type":"joinGroup","group":"g","ackId":{MAX_UINT64}}}', JoinGroup("g", MAX_UINT64)),
    UpstreamRow("ack null", '{"type":"joinGroup","group":"g","ackId":null}', JoinGroup("g")),
    UpstreamRow("group as escapes", r'{"type":"joinGroup","group":"a\u0000\u00e9"}', JoinGroup("a\0é")),
    UpstreamRow("longest group", f'{{"type":"joinGroup","group":"{"é" * 1024}"}}', JoinGroup("é" * 1024)),
    UpstreamRow("group with spaces", '{"type":"joinGroup","group":" a "}', JoinGroup(" a ")),
    UpstreamRow("leave", '{"type":"leaveGroup","group":"g","ackId":2}', LeaveGroup("g", 2)),
    UpstreamRow("type in capitals", '{"type":"LEAVEGROUP","group":"g"}', LeaveGroup("g")),
    UpstreamRow("type in lower case", '{"type":"joingroup","group":"g"}', JoinGroup("g")),
    UpstreamRow("member order", '{"ackId":3,"group":"g","type":"joinGroup"}', JoinGroup("g", 3)),
    UpstreamRow("white space", ' \n{ "type" : "joinGroup" ,\t"group":"g" } ', JoinGroup("g")),
    UpstreamRow("escaped member name", r'{"typ\u0065":"joinGroup","group":"g"}', JoinGroup("g")),
    UpstreamRow("unknown members", '{"type":"joinGroup","group":"g","x":{"y":[1]},"data":5}', JoinGroup("g")),
    UpstreamRow(
        "send with everything",
        '{"type":"sendToGroup","group":"g","dataType":"text","data":"x","ackId":4,"noEcho":true,"ttlSeconds":300,'
        '"metadata":{"Trace-Id":"1"}}',
        SendToGroup("g", Payload(TEXT, b"x"), 4, True, 300, {"Trace-Id": "1"}),
    ),
    UpstreamRow("dataType absent", '{"type":"sendToGroup","group":"g","data":"hi"}', SendToGroup("g", _HELLO)),
    UpstreamRow(
        "nulls are absent",
        '{"type":"sendToGroup","group":"g","data":"hi","dataType":null,"ackId":null,"noEcho":null,"ttlSeconds":null,'
        '"metadata":null}',
        SendToGroup("g", _HELLO),
    ),
    UpstreamRow(
        "dataType with a capital, as .NET writes it",
        '{"type":"sendToGroup","group":"g","dataType":"Text","data":"x"}',
        SendToGroup("g", Payload(TEXT, b"x")),
    ),
    UpstreamRow(
        "dataType after data",
        '{"data":"AA==","dataType":"BINARY","group":"g","type":"sendToGroup"}',
        SendToGroup("g", Payload(BINARY, b"\0")),
    ),
    UpstreamRow(
        "noEcho false", '{"type":"sendToGroup","group":"g","data":"hi","noEcho":false}', SendToGroup("g", _HELLO)
    ),
    UpstreamRow(
        "ttl 0",
        '{"type":"sendToGroup","group":"g","data":"hi","ttlSeconds":0}',
        SendToGroup("g", _HELLO, ttl_secs=0),
    ),
    UpstreamRow(
        "metadata without data is an empty text",
        '{"type":"sendToGroup","group":"g","metadata":{"a":"b"}}',
        SendToGroup("g", Payload(TEXT, b""), metadata={"a": "b"}),
    ),
    UpstreamRow(
        "empty metadata without data is an empty text",
        '{"type":"sendToGroup","group":"g","metadata":{}}',
        SendToGroup("g", Payload(TEXT, b""), metadata={}),
    ),
    UpstreamRow(
        "longest metadata key and value",
        f'{{"type":"sendToGroup","group":"g","data":"hi","metadata":{{"{"k" * 256}":"{"v" * 1024}"}}}}',
        SendToGroup("g", _HELLO, metadata={"k" * 256: "v" * 1024}),
    ),
    UpstreamRow(
        "8 KiB of metadata",
        '{"type":"sendToGroup","group":"g","data":"hi","metadata":{'
        + ",".join(f'"{key}":"{value}"' for key, value in _METADATA_8K.items())
        + "}}",
        SendToGroup("g", _HELLO, metadata=_METADATA_8K),
    ),
    UpstreamRow(
        "metadata keys keep their case, and every token character is allowed",
        r"""{"type":"event","event":"e","data":"hi","metadata":{"A":"","a":"~ ","!#$%&'*+-.^_`|~09":"x"}}""",
        UserEvent("e", _HELLO, metadata={"A": "", "a": "~ ", "!#$%&'*+-.^_`|~09": "x"}),
    ),
    UpstreamRow("event", '{"type":"event","event":"ev","data":"hi","ackId":5}', UserEvent("ev", _HELLO, 5)),
    UpstreamRow(
        "event without data",
        '{"type":"event","event":"ev","metadata":{"a":"b"}}',
        UserEvent("ev", Payload(TEXT, b""), metadata={"a": "b"}),
    ),
    UpstreamRow(
        "event name", '{"type":"event","event":"Chat.Log-in_2","data":"hi"}', UserEvent("Chat.Log-in_2", _HELLO)
    ),
    UpstreamRow(
        "longest event name", f'{{"type":"event","event":"{"e" * 128}","data":"hi"}}', UserEvent("e" * 128, _HELLO)
    ),
    UpstreamRow("ping", '{"type":"ping"}', Ping()),
    UpstreamRow("sequence ack", '{"type":"sequenceAck","sequenceId":7}', SequenceAck(7)),
    UpstreamRow(
        "greatest sequence ack", f'{{"type":"sequenceAck","sequenceId":{MAX_UINT64}}}', SequenceAck(MAX_UINT64)
    ),
    UpstreamRow(
        "stream null is absent",
        '{"type":"sendToGroup","group":"g","data":"hi","stream":null}',
        SendToGroup("g", _HELLO),
    ),
    UpstreamRow(
        "invoke",
        '{"type":"invoke","invocationId":"1","target":"event","event":"ev","dataType":"text","data":"x"}',
        Invoke("1", "ev", Payload(TEXT, b"x")),
    ),
    UpstreamRow(
        "invoke without data", '{"type":"invoke","invocationId":"1","target":"event","event":"ev"}', Invoke("1", "ev")
    ),
    UpstreamRow(
        "invoke with metadata alone",
        '{"type":"INVOKE","invocationId":" ","target":"Event","event":"ev","dataType":null,"metadata":{"a":"b"}}',
        Invoke(" ", "ev", metadata={"a": "b"}),
    ),
    UpstreamRow(
        "invoke, dataType absent",
        '{"type":"invoke","invocationId":"é👋","target":"event","event":"ev","data":"hi"}',
        Invoke("é👋", "ev", _HELLO),
    ),
    UpstreamRow(
        "longest invocation id",
        f'{{"type":"cancelInvocation","invocationId":"{"é" * 1024}"}}',
        CancelInvocation("é" * 1024),
    ),
    UpstreamRow("cancel", '{"type":"cancelInvocation","invocationId":"1"}', CancelInvocation("1")),
    UpstreamRow(
        "invoke response",
        '{"type":"invokeResponse","invocationId":"1","success":true,"dataType":"json","data":"hi"}',
        InvokeResponse("1", _HELLO),
    ),
    UpstreamRow(
        "invoke response without data",
        '{"type":"invokeResponse","invocationId":"1","success":true,"error":null}',
        InvokeResponse("1"),
    ),
    UpstreamRow(
        "invoke response of a failure",
        '{"type":"invokeResponse","invocationId":"1","success":false,"error":{"name":"n","message":"m","x":1}}',
        InvokeResponse("1", error_name="n", error_message="m"),
    ),
]

_SEND = '{"type":"sendToGroup","group":"g",'
_INVOKE = '{"type":"invoke","invocationId":"1","event":"e"'
_RESPONSE = '{"type":"invokeResponse","invocationId":"1"'
_DEEP = 200_000

# Each ends the connection with 1007.
MALFORMED = {
    "nothing": "",
    "white space": "  ",
    "no JSON": "hello",
    "cut off": '{"type":"ping"',
    "two values": '{"type":"ping"}{"type":"ping"}',
    "byte order mark": '\ufeff{"type":"ping"}',
    "single quotes": "{'type':'ping'}",
    "trailing comma": '{"type":"ping",}',
    "comment": '{"type":"ping"/**/}',
    "an array": "[]",
    "a string": '"ping"',
    "null": "null",
    "a number": "1",
    "empty object": "{}",
    "type null": '{"type":null}',
    "type a number": '{"type":1}',
    "type unknown": '{"type":"nonsense"}',
    "type empty": '{"type":""}',
    "type with spaces": '{"type":" ping"}',
    "broken unknown member": '{"type":"ping","x":01}',
    "NaN": '{"type":"ping","x":NaN}',
    "raw control character": '{"type":"ping","x":"a\nb"}',
    "bad escape": r'{"type":"ping","x":"\q"}',
    "half a surrogate pair": _SEND + r'"data":"\ud800"}',
    "half a surrogate pair as text": _SEND + r'"dataType":"text","data":"\udc00"}',
    "half a surrogate pair, raw": _SEND + '"data":"\ud800"}',
    "join without group": '{"type":"joinGroup"}',
    "group null": '{"type":"joinGroup","group":null}',
    "group empty": '{"type":"joinGroup","group":""}',
    "group of white space": '{"type":"joinGroup","group":" \\t\u2003"}',
    "group too long": f'{{"type":"joinGroup","group":"{"g" * 1025}"}}',
    "group a number": '{"type":"leaveGroup","group":1}',
    "send without group": '{"type":"sendToGroup","data":1}',
    "ack as text": '{"type":"joinGroup","group":"g","ackId":"1"}',
    "ack below zero": '{"type":"joinGroup","group":"g","ackId":-1}',
    "ack beyond 64 bits": f'{{"type":"joinGroup","group":"g","ackId":{MAX_UINT64 + 1}}}',
    "ack of 5000 digits": f'{{"type":"joinGroup","group":"g","ackId":{"1" * 5000}}}',
    "ack a fraction": '{"type":"joinGroup","group":"g","ackId":1.5}',
    "ack true": '{"type":"joinGroup","group":"g","ackId":true}',
    "ack an object": '{"type":"joinGroup","group":"g","ackId":{}}',
    "data missing": _SEND[:-1] + "}",
    "data null": _SEND + '"data":null}',
    "data null with metadata": _SEND + '"data":null,"metadata":{"a":"b"}}',
    "data missing with null metadata": _SEND + '"metadata":null}',
    "text not a string": _SEND + '"dataType":"text","data":{}}',
    "text a number": _SEND + '"dataType":"text","data":1}',
    "binary not a string": _SEND + '"dataType":"binary","data":[1]}',
    "binary not base64": _SEND + '"dataType":"binary","data":"**"}',
    "base64 with bad padding": _SEND + '"dataType":"binary","data":"YQ="}',
    "base64 going on": _SEND + '"dataType":"binary","data":"YQ==YQ=="}',
    "base64 of URLs": _SEND + '"dataType":"binary","data":"_-8="}',
    "base64 with a line end": _SEND + r'"dataType":"binary","data":"YQ==\n"}',
    "base64 in another script": _SEND + '"dataType":"binary","data":"中"}',
    "protobuf not base64": _SEND + '"dataType":"protobuf","data":"%"}',
    "dataType unknown": _SEND + '"dataType":"xml","data":"x"}',
    "dataType empty": _SEND + '"dataType":"","data":"x"}',
    "dataType a number": _SEND + '"dataType":1,"data":"x"}',
    "noEcho a text": _SEND + '"data":1,"noEcho":"true"}',
    "noEcho a number": _SEND + '"data":1,"noEcho":1}',
    "ttl too long": _SEND + '"data":1,"ttlSeconds":301}',
    "ttl below zero": _SEND + '"data":1,"ttlSeconds":-1}',
    "ttl a text": _SEND + '"data":1,"ttlSeconds":"1"}',
    "ttl a fraction": _SEND + '"data":1,"ttlSeconds":0.5}',
    "metadata an array": _SEND + '"data":1,"metadata":[["a","b"]]}',
    "metadata an empty array": _SEND + '"data":1,"metadata":[]}',
    "metadata a text": _SEND + '"data":1,"metadata":"a"}',
    "metadata value a number": _SEND + '"data":1,"metadata":{"a":1}}',
    "metadata value of 5000 digits": _SEND + f'"data":1,"metadata":{{"a":{"1" * 5000}}}}}',
    "metadata value null": _SEND + '"data":1,"metadata":{"a":null}}',
    "metadata value an object": _SEND + '"data":1,"metadata":{"a":{"b":"c"}}}',
    "metadata value not ASCII": _SEND + '"data":1,"metadata":{"a":"é"}}',
    "metadata value too long": _SEND + f'"data":1,"metadata":{{"a":"{"v" * 1025}"}}}}',
    "metadata key too long": _SEND + f'"data":1,"metadata":{{"{"k" * 257}":"v"}}}}',
    "metadata key empty": _SEND + '"data":1,"metadata":{"":"v"}}',
    "metadata key with a space": _SEND + '"data":1,"metadata":{"a b":"v"}}',
    "metadata key with a colon": _SEND + '"data":1,"metadata":{"a:b":"v"}}',
    "metadata key not ASCII": _SEND + '"data":1,"metadata":{"é":"v"}}',
    "metadata key twice": _SEND + '"data":1,"metadata":{"a":"b","a":"b"}}',
    "metadata beyond 8 KiB": _SEND
    + '"data":1,"metadata":{'
    + ",".join(f'"k{number}":"{"v" * 1022}"' for number in range(8))
    + ',"l":""}}',
    "metadata deep": _SEND + '"data":1,"metadata":{"a":' + "[" * _DEEP + "]" * _DEEP + "}}",
    "event missing": '{"type":"event","data":1}',
    "event empty": '{"type":"event","event":"","data":1}',
    "event starts with a digit": '{"type":"event","event":"1a","data":1}',
    "event with a space": '{"type":"event","event":"a b","data":1}',
    "event with a line end": r'{"type":"event","event":"a\n","data":1}',
    "event not ASCII": '{"type":"event","event":"é","data":1}',
    "event too long": f'{{"type":"event","event":"{"e" * 129}","data":1}}',
    "event without data": '{"type":"event","event":"e"}',
    "sequence ack without id": '{"type":"sequenceAck"}',
    "sequence ack null": '{"type":"sequenceAck","sequenceId":null}',
    "sequence ack as text": '{"type":"sequenceAck","sequenceId":"1"}',
    "sequence ack below zero": '{"type":"sequenceAck","sequenceId":-1}',
    "sequence ack beyond 64 bits": f'{{"type":"sequenceAck","sequenceId":{MAX_UINT64 + 1}}}',
    "a stream begins": _SEND + '"stream":{"streamId":"s"}}',
    "a stream begins, with metadata": _SEND + '"stream":{"streamId":"s"},"metadata":{"a":"b"}}',
    "a stream begins, with data": _SEND + '"stream":{"streamId":"s"},"data":1}',
    "invoke without id": '{"type":"invoke","target":"event","event":"e"}',
    "invoke with an empty id": '{"type":"invoke","invocationId":"","target":"event","event":"e"}',
    "invocation id too long": f'{{"type":"cancelInvocation","invocationId":"{"i" * 1025}"}}',
    "invocation id a number": '{"type":"cancelInvocation","invocationId":1}',
    "cancel without id": '{"type":"cancelInvocation"}',
    "half a surrogate pair as invocation id": r'{"type":"cancelInvocation","invocationId":"\ud800"}',
    "invoke without target": _INVOKE + "}",
    "invoke with unknown target": _INVOKE + ',"target":"connection"}',
    "invoke without event": '{"type":"invoke","invocationId":"1","target":"event"}',
    "invoke with a bad event name": '{"type":"invoke","invocationId":"1","target":"event","event":"1"}',
    "invoke with data null": _INVOKE + ',"target":"event","data":null}',
    "invoke with dataType alone": _INVOKE + ',"target":"event","dataType":"text"}',
    "invoke with bad metadata": _INVOKE + ',"target":"event","metadata":{"a":1}}',
    "invoke with text that is none": _INVOKE + ',"target":"event","dataType":"text","data":1}',
    "invoke response without id": '{"type":"invokeResponse","success":true}',
    "invoke response without success": _RESPONSE + "}",
    "invoke response with success null": _RESPONSE + ',"success":null}',
    "invoke response with success a text": _RESPONSE + ',"success":"true"}',
    "invoke response of a failure without error": _RESPONSE + ',"success":false}',
    "invoke response of a failure, error null": _RESPONSE + ',"success":false,"error":null}',
    "invoke response of a failure without name": _RESPONSE + ',"success":false,"error":{"message":"m"}}',
    "invoke response of a failure without message": _RESPONSE + ',"success":false,"error":{"name":"n"}}',
    "invoke response with dataType alone": _RESPONSE + ',"success":true,"dataType":"json"}',
    "deep arrays": "[" * _DEEP,
    "deep objects": '{"a":' * _DEEP,
    "deep data": _SEND + '"data":' + "[" * _DEEP + "]" * _DEEP + "}",
    "deep unknown member": '{"type":"ping","x":' + "[" * _DEEP + "]" * _DEEP + "}",
}


class DownstreamRow(NamedTuple):
    """A frame and the exact text message that JSON clients get."""

    name: str
    frame: Downstream
    text: str


DOWNSTREAM = [
    DownstreamRow(
        "connected",
        Connected("c", "u"),
        '{"type":"system","event":"connected","userId":"u","connectionId":"c"}',
    ),
    DownstreamRow(
        "connected, reliable",
        Connected("c", "u", "t"),
        '{"type":"system","event":"connected","userId":"u","connectionId":"c","reconnectionToken":"t"}',
    ),
    DownstreamRow(
        "connected, anonymous",
        Connected("c"),
        '{"type":"system","event":"connected","userId":null,"connectionId":"c"}',
    ),
    DownstreamRow("disconnected", Disconnected("bye"), '{"type":"system","event":"disconnected","message":"bye"}'),
    DownstreamRow("disconnected, no reason", Disconnected(""), '{"type":"system","event":"disconnected","message":""}'),
    DownstreamRow("ack", Ack(1), '{"type":"ack","ackId":1,"success":true}'),
    DownstreamRow("ack 0", Ack(0), '{"type":"ack","ackId":0,"success":true}'),
    DownstreamRow("greatest ack", Ack(MAX_UINT64), f'{{"type":"ack","ackId":{MAX_UINT64},"success":true}}'),
    DownstreamRow(
        "ack of a failure",
        Ack(2, "Forbidden", "The client does not have permission to join group 'g'."),
        '{"type":"ack","ackId":2,"success":false,"error":{"name":"Forbidden",'
        '"message":"The client does not have permission to join group \'g\'."}}',
    ),
    DownstreamRow(
        "ack of a failure without words",
        Ack(2, "InternalServerError"),
        '{"type":"ack","ackId":2,"success":false,"error":{"name":"InternalServerError","message":""}}',
    ),
    DownstreamRow(
        "group message",
        GroupMessage("g", Payload(TEXT, b"x"), "u"),
        '{"type":"message","from":"group","group":"g","fromUserId":"u","dataType":"text","data":"x"}',
    ),
    DownstreamRow(
        "group message of nobody",
        GroupMessage("g", Payload(JSON, b'{"a":1}')),
        '{"type":"message","from":"group","group":"g","dataType":"json","data":{"a":1}}',
    ),
    DownstreamRow(
        "group message with metadata",
        GroupMessage('g"é', Payload(BINARY, b"\0"), 'u"', {"b": "2", "a": "1"}),
        '{"type":"message","from":"group","group":"g\\"é","fromUserId":"u\\"","dataType":"binary","data":"AA==",'
        '"metadata":{"b":"2","a":"1"}}',
    ),
    DownstreamRow(
        "empty metadata is not written",
        GroupMessage("g", Payload(TEXT, b""), None, {}),
        '{"type":"message","from":"group","group":"g","dataType":"text","data":""}',
    ),
    DownstreamRow(
        "server message",
        ServerMessage(Payload(JSON, b"[]")),
        '{"type":"message","from":"server","dataType":"json","data":[]}',
    ),
    DownstreamRow(
        "server message with metadata",
        ServerMessage(Payload(PROTOBUF, b"\0"), {"a": "1"}),
        '{"type":"message","from":"server","dataType":"protobuf","data":"AA==","metadata":{"a":"1"}}',
    ),
    DownstreamRow("pong", Pong(), '{"type":"pong"}'),
    DownstreamRow(
        "invoke response",
        InvokeResponse("1", Payload(JSON, b'{"a":1}')),
        '{"type":"invokeResponse","invocationId":"1","success":true,"dataType":"json","data":{"a":1}}',
    ),
    DownstreamRow(
        "invoke response without payload",
        InvokeResponse("1"),
        '{"type":"invokeResponse","invocationId":"1","success":true}',
    ),
    DownstreamRow(
        "invoke response with metadata",
        InvokeResponse('"', Payload(TEXT, b""), metadata={"a": "1"}),
        '{"type":"invokeResponse","invocationId":"\\"","success":true,"dataType":"text","data":"","metadata":{"a":"1"}}',
    ),
    DownstreamRow(
        "invoke response of a failure",
        InvokeResponse("1", error_name="NotFound", error_message="m"),
        '{"type":"invokeResponse","invocationId":"1","success":false,"error":{"name":"NotFound","message":"m"}}',
    ),
    DownstreamRow(
        "invoke response of a failure without words",
        InvokeResponse("1", error_name="InternalServerError"),
        '{"type":"invokeResponse","invocationId":"1","success":false,'
        '"error":{"name":"InternalServerError","message":""}}',
    ),
    DownstreamRow(
        "invoke response of a failure that says more",
        InvokeResponse("1", Payload(TEXT, b"x"), "n", "m"),
        '{"type":"invokeResponse","invocationId":"1","success":false,"dataType":"text","data":"x",'
        '"error":{"name":"n","message":"m"}}',
    ),
]
