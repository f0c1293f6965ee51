"""One empty DRF view, one empty asynchronous Django view."""

from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView


class Empty(APIView):
    """Reads nothing, does nothing, answers 202."""

    def post(self, request: Request) -> Response:
        """Answer."""
        return Response(status=202, headers={"Content-Length": "0"})


@csrf_exempt
async def empty(request: HttpRequest) -> HttpResponse:
    """Answer 202, without leaving the event loop."""
    return HttpResponse(status=202, headers={"Content-Length": "0"})


urlpatterns = [path("drf", Empty.as_view()), path("async", empty)]
