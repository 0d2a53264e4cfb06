"""The app that gunicorn serves: made from the settings when a gunicorn worker, already forked, imports it."""

from __future__ import annotations

from shared import logs
from shared.settings import load_settings
from web.app import create_app

_settings = load_settings()
logs.set_up(_settings, "web")
app = create_app(_settings)
