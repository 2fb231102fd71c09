"""A page that is wanted and whose extra is not installed."""

import sys

import pytest

from facesieve.errors import MissingExtraError
from facesieve.service.run import build_app
from facesieve.service.settings import Settings


def test_the_extra_of_the_page_is_named_before_anything_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr("facesieve.service.run.shield_of", lambda _: pytest.fail("a network was loaded"))
    with pytest.raises(MissingExtraError, match="the page") as caught:
        build_app(Settings(page=True))
    assert "facesieve[page]" in str(caught.value)
