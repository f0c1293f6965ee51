"""Addresses of the demo pages."""

from django.urls import path

from hubs.demos.views import DemoPage, ModeratedChat

app_name = "demos"

urlpatterns = [
    path("", DemoPage.as_view(template_name="demos/front.html"), name="front"),
    path("demos/chat/", DemoPage.as_view(template_name="demos/chat.html"), name="chat"),
    path("demos/moderated/", ModeratedChat.as_view(), name="moderated"),
    path("demos/logstream/", DemoPage.as_view(template_name="demos/logstream.html"), name="logstream"),
]
