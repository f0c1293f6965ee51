"""URLs with a view that takes more of a stranger than others do."""

from django.urls import path

from hubs.upstream.mount import webhook

urlpatterns = [path("events", webhook("chat", allowed_origins=["*"], max_body_bytes=1_000_000))]
