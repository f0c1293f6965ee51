"""HTTP addresses of this room. The operations are rows of hubs/manage_api/table.py."""

from django.urls import re_path

from hubs.manage_api.table import url_patterns
from hubs.manage_api.views import nothing_here

urlpatterns = [
    *url_patterns(),
    # Programs get JSON, also for a slip in the path.
    re_path(r"^manage/api(?:/|\Z)", nothing_here),
]
