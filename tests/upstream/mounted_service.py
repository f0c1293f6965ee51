"""The service whose events the project of mounted_project.py takes: that of conftest.py, and one of its keys."""

ENDPOINT = "https://pubsub.example.com:8443/prefix"
ORIGIN = "pubsub.example.com"
KEY = "second key"
CONNECTION_STRING = f"Endpoint={ENDPOINT};AccessKey={KEY};Version=1.0;"
MAX_BODY_BYTES = 100_000
