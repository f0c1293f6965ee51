"""As little as Django and DRF need; no middleware, no database, no sessions."""

SECRET_KEY = "for the bench alone"
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "empty_site.urls"
INSTALLED_APPS = ["rest_framework"]
MIDDLEWARE: list[str] = []
DATABASES: dict[str, dict[str, str]] = {}
USE_TZ = True
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "UNAUTHENTICATED_USER": None,
}
