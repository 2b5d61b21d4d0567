"""The program: its commands in one list, and where errors become words and exit codes.

Each command is a function, or a group of them, in a file of its own, imported only when it is asked for. It must not
know what they do.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from quorumcache.cli import exits
from quorumcache.errors import QuorumCacheError
from quorumcache.version import VERSION

_LOOK = "Try it out"
_USE = "Use a cluster"
_RUN = "Run a cluster"

#: name -> (panel of the help text, module, function). A new command is a line here.
COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "demo": (_LOOK, "quorumcache.cli.demo", "demo"),
    "up": (_LOOK, "quorumcache.cli.up", "up"),
    "replay": (_LOOK, "quorumcache.cli.replay", "replay"),
    "get": (_USE, "quorumcache.cli.data", "get"),
    "set": (_USE, "quorumcache.cli.data", "set_"),
    "delete": (_USE, "quorumcache.cli.data", "delete"),
    "keys": (_USE, "quorumcache.cli.keys", "keys"),
    "watch": (_USE, "quorumcache.cli.watch", "watch"),
    "status": (_USE, "quorumcache.cli.status", "status"),
    "verify": (_USE, "quorumcache.cli.verify", "verify"),
    "audit": (_USE, "quorumcache.cli.audit", "audit"),
    "evidence": (_USE, "quorumcache.cli.evidence", "evidence"),
    "http": (_USE, "quorumcache.cli.http", "http"),
    "gateway": (_USE, "quorumcache.cli.gateway", "gateway"),
    "init": (_RUN, "quorumcache.cli.init", "init"),
    "keygen": (_RUN, "quorumcache.cli.keygen", "keygen"),
    "admin": (_RUN, "quorumcache.cli.admin", "admin"),
    "node": (_RUN, "quorumcache.cli.node", "node"),
}


class _Commands(TyperGroup):
    """Commands that are imported when they are used. Errors of ours that come out of one end the process in words."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        panel, module, function = COMMANDS[cmd_name]
        found = getattr(import_module(module), function)
        if isinstance(found, typer.Typer):
            group: Any = typer.main.get_command(found)
            group.name, group.rich_help_panel, group.context_settings = cmd_name, panel, _SETTINGS
            return group
        alone = typer.Typer(add_completion=False, rich_markup_mode="rich", context_settings=_SETTINGS)
        alone.command(cmd_name, rich_help_panel=panel)(found)
        return typer.main.get_command(alone)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except QuorumCacheError as error:
            code = exits.report(error)
        except KeyboardInterrupt:
            code = exits.INTERRUPTED
        raise typer.Exit(code)


_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    cls=_Commands,
    name="quorumcache",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings=_SETTINGS,
    help="A distributed cache that stays right while up to f of its 3f+1 nodes lie.",
    epilog=exits.EPILOG,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"quorumcache {VERSION}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments (by default the process's) name; returns the exit status."""
    try:
        app(None if arguments is None else list(arguments), prog_name="quorumcache")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does. Nothing more can be written, at exit neither.
        sys.stdout = None
    return 0
