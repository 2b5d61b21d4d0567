"""Which commands of one connection may run together: those for which nobody could tell in what order they ran.

Commands that touch different keys; that only read; or that name different fields of one hash, or members of one set,
where fields are written one by one. It must not know what commands do.
"""

from __future__ import annotations

from quorumcache.gateway.redis.table import Call

Numbered = tuple[int, Call]


class _Key:
    """The last turns in which a key was touched so far; -1 where it was not. `group`: whose fields were, last."""

    __slots__ = ("field_read", "field_written", "fields_read", "fields_written", "group", "read", "written")

    def __init__(self) -> None:
        self.read = self.written = self.fields_read = self.fields_written = -1
        self.field_read: dict[bytes, int] = {}
        self.field_written: dict[bytes, int] = {}
        self.group = ""

    def first_turn(self, is_write: bool, fields: list[bytes]) -> int:
        """The first turn in which a command can touch it; `fields`: all that it names, empty for the whole key."""
        last = max(self.written, self.fields_written)
        if not fields:
            return 1 + (max(last, self.read, self.fields_read) if is_write else last)
        last = self.written
        for name in fields:
            last = max(last, self.field_written.get(name, -1))
            if is_write:
                last = max(last, self.field_read.get(name, -1))
        return 1 + (max(last, self.read) if is_write else last)

    def touched(self, turn: int, is_write: bool, fields: list[bytes]) -> None:
        """A command touches it in this turn."""
        if is_write:
            if fields:
                self.fields_written = max(self.fields_written, turn)
                self.field_written.update(dict.fromkeys(fields, turn))
            else:
                self.written = turn
        elif fields:
            self.fields_read = max(self.fields_read, turn)
            for name in fields:
                self.field_read[name] = max(turn, self.field_read.get(name, -1))
        else:
            self.read = max(self.read, turn)


def turns_of(calls: list[Numbered]) -> list[list[Numbered]]:
    """The commands in turns: each in the first one after all those before it that it has to follow."""
    turns: list[list[Numbered]] = []
    keys: dict[tuple[int, bytes], _Key] = {}
    for each in calls:
        call = each[1]
        command, database = call.command, call.database
        touched = []
        for name in command.keys_of(call.arguments):
            place = (database.number, name)
            key = keys.get(place)
            if key is None:
                key = keys[place] = _Key()
            touched.append(key)
        is_write, fields, turn = command.is_write, command.fields_of(call.arguments), 0
        if fields and (database.is_exact or touched[0].group not in ("", command.group)):
            # A whole value there; or, as a hash and as a set at once, what shows which of them came first.
            fields = []
        for key in touched:
            turn = max(turn, key.first_turn(is_write, fields))
        for key in touched:
            key.touched(turn, is_write, fields)
            if fields:
                key.group = command.group
        if turn == len(turns):
            turns.append([])
        turns[turn].append(each)
    return turns
