"""The lake over HTTP: a JSON API and pages, by any number of servers that keep nothing themselves."""

from orchestration.serve.app import create_app
from orchestration.serve.settings import ServeSettings

__all__ = ["ServeSettings", "create_app"]
