"""Autobahn's fuzzing client on a running service: `make autobahn`; its results are in docs/websocket-conformance.md."""
