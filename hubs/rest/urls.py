"""HTTP addresses of this room. The data plane's operations are rows of hubs/rest/table.py."""

from django.urls import re_path

from hubs.rest.negotiate import Negotiate
from hubs.rest.table import data_plane
from hubs.rest.views import speaks_websocket

urlpatterns = [
    re_path(r"^[Aa][Pp][Ii]/(?:[Hh][Uu][Bb][Ss]|[Hh][Ee][Aa][Ll][Tt][Hh])(?:/|\Z)", data_plane, name="data_plane"),
    re_path(r"^api/negotiate(?:/(?P<hub>(?s:.*?)))?/?\Z", Negotiate.as_view(), name="negotiate"),
    re_path(r"^negotiate/?\Z", Negotiate.as_view(), name="negotiate_plain"),
    re_path(r"^client(?:/(?:hubs/(?P<hub>[^/]*)/?)?)?\Z", speaks_websocket, name="client"),
]
