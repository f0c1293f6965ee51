"""Addresses of the demo pages."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
