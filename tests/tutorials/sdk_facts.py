"""What the Python SDK's callbacks are told, and what its operations give, as the facts that our programs print."""

import json

from azure.messaging.webpubsubclient.models import CallbackType


def readable(data):
    """Data as JSON can say it: bytes become hex digits."""
    return data.hex() if isinstance(data, memoryview) else data


def content(data_type, data):
    """Data as the SDK takes it."""
    return memoryview(bytes.fromhex(data)) if data_type in ("binary", "protobuf") else data


def message(told, news):
    return {"told": told, "dataType": news.data_type, "data": readable(news.data), "sequenceId": news.sequence_id}


TOLD = {
    CallbackType.CONNECTED: lambda news: {
        "told": "connected",
        "connectionId": news.connection_id,
        "userId": news.user_id,
    },
    CallbackType.DISCONNECTED: lambda news: {
        "told": "disconnected",
        "connectionId": news.connection_id,
        "message": news.message,
    },
    CallbackType.GROUP_MESSAGE: lambda news: {
        **message("group message", news),
        "group": news.group,
        "fromUserId": news.from_user_id,
    },
    CallbackType.SERVER_MESSAGE: lambda news: message("server message", news),
    CallbackType.REJOIN_GROUP_FAILED: lambda news: {
        "told": "rejoin failed",
        "group": news.group,
        "error": str(news.error),
    },
    CallbackType.STOPPED: lambda: {"told": "stopped"},
}


def command(line):
    """A line that was typed: the operation, its arguments and its options."""
    operation, *arguments, options = json.loads(line)
    return operation, arguments, options


def failure(operation, refused):
    """An operation that was refused, or got no answer."""
    detail = refused.error_detail
    return {"failed": operation, "error": detail and {"name": detail.name, "message": detail.message}}
