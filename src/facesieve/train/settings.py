"""Settings of a training from `name=value` texts."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from facesieve.errors import SettingError

Settings = TypeVar("Settings", bound=BaseModel)


def parse_settings(model: type[Settings], pairs: list[str]) -> Settings:
    """``model`` with what ``pairs`` say, as in ``["batch=32", "sizes=96,160"]``.

    Raises ``SettingError`` for a setting that does not exist or does not fit.
    """
    given: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in model.model_fields:
            raise SettingError(f"--set {pair}: expected name=value with a name of {', '.join(model.model_fields)}")
        many = str(model.model_fields[name].annotation).startswith("tuple")
        given[name] = value.split(",") if many else value
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingError(f"--set {first['loc'][0]}={first['input']}: {first['msg'].lower()}") from error
