"""Every HTTP address of this installation. WebSocket addresses are in hubs/routing.py."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("hubs.urls")),
]

handler400 = "pubsub_site.refusals.refuse"
handler500 = "pubsub_site.database_away.failed"
