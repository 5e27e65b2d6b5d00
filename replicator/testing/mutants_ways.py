"""The planted bugs of who is meant (V20), of messages that kill (V22), and of nodes in a handler (V24)."""

from __future__ import annotations

from replicator.testing.planting import BUSY, DOOR, LINKS, MEETING, ROUTING, SUSPECTS, WIRE, Edit, Mutant, one

_ANYBODY = Edit(
    MEETING,
    "            if met.database != (self.database or met.database) or met.database_id != (\n"
    "                self.database_id or met.database_id\n"
    "            ):\n",
    "            if False:\n",
)
_KEEPS = Edit(
    MEETING,
    "self.database, self.database_id = met.database, met.database_id",
    "self.database, self.database_id = met.database, self.database_id or met.database_id",
)

WAYS_MUTANTS: tuple[Mutant, ...] = (
    Mutant("V20", "whoever answers last is the database that is meant", (_ANYBODY,)),
    Mutant(
        "V20",
        "a client takes whoever answers, and a node takes messages for another database",
        (
            _ANYBODY,
            _KEEPS,
            Edit(WIRE, "if fields[1] != database_id or not database_id:", "if False:"),
        ),
    ),
    Mutant(
        "V20",
        "any arbiter's record is believed",
        (
            _ANYBODY,
            _KEEPS,
            Edit(DOOR, "        if database_id != known.database_id:\n", "        if False:\n"),
            Edit(LINKS, "if view.database_id != self._pin.database_id:", "if False:"),
        ),
    ),
    one(
        "V22",
        "deaths are not counted",
        SUSPECTS,
        "                trail.deaths += 1\n",
        "                trail.deaths += 0\n",
    ),
    one(
        "V22",
        "what has killed two nodes is not remembered",
        SUSPECTS,
        "                    self._refused[key] = (now_ms + self.poison_ms, name)\n",
        "                    self._refused[key] = (now_ms, name)\n",
    ),
    one(
        "V22",
        "a node that is gone is not taken for dead",
        ROUTING,
        "if is_gone and not was_up and node.lost:",
        "if False:",
    ),
    one(
        "V22",
        "another request of the same message is another message",
        SUSPECTS,
        "            trail = self._trails.get(key)\n",
        "            trail = None\n",
    ),
    one(
        "V24",
        "an active that is in a handler is silent",
        BUSY,
        "            self._backup.heard_ms = state.elapsed_ms\n",
        "            pass\n",
    ),
    one(
        "V24",
        "a backup that is in a handler is silent",
        BUSY,
        "                peer.heard_ms = state.elapsed_ms\n",
        "                pass\n",
    ),
)
