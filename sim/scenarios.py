"""Named settings: scenario files in sim/scenarios/, or anybody's own in the same form (TOML).

A scenario file has a `story` (one sentence) and any of the settings of `SimConfig`; what it leaves out stays as it is.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final

from sim.settings import BadSetting, SimConfig

_HERE: Final = Path(__file__).with_name("scenarios")
_BYTES_MAX: Final = 1 << 20


def names() -> list[str]:
    """The scenarios that come with the simulator."""
    return sorted(path.stem for path in _HERE.glob("*.toml"))


def load(name: str, base: SimConfig | None = None) -> SimConfig:
    """The settings of a scenario, by its name or its file's path. Raises BadSetting."""
    path = _HERE / f"{name}.toml"
    if name not in names():
        path = Path(name)
        if path.suffix != ".toml":
            raise BadSetting(
                f"there is no scenario {name[:80]!r}; there are {', '.join(names())}, or a .toml file's path"
            )
    return parse(_read(path), str(path.name), base)


def story(name: str) -> str:
    """What a scenario that comes with the simulator is about."""
    return str(tomllib.loads(_read(_HERE / f"{name}.toml"))["story"])


def parse(text: str, where: str, base: SimConfig | None = None) -> SimConfig:
    """The settings that a scenario file's text gives."""
    try:
        fields = tomllib.loads(text)
    except (ValueError, RecursionError) as problem:
        raise BadSetting(f"{where}: not valid TOML: {problem}") from None
    if not isinstance(fields.pop("story", None), str):
        raise BadSetting(f"{where}: a scenario needs a story: one sentence, as a string")
    try:
        return (base or SimConfig()).but(**fields)
    except BadSetting as problem:
        raise BadSetting(f"{where}: {problem}") from None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_BYTES_MAX + 1)
        if len(data) > _BYTES_MAX:
            raise BadSetting(f"{path}: longer than {_BYTES_MAX} bytes; this is no scenario file")
        return data.decode()
    except FileNotFoundError:
        raise BadSetting(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise BadSetting(f"{path}: cannot be read: {problem}") from None
