"""HTTP addresses of the service, for a project's `urlpatterns`."""

from django.urls import include, path

urlpatterns = [
    path("", include("hubs.rest.urls")),
    path("", include("hubs.manage_api.urls")),
    path("", include("hubs.demos.urls")),
]
