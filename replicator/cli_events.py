"""Own `replicator events`: what happened to the database, as all nodes together remember it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from replicator.cli_status import WATCH_S, call_operator
from replicator.config import Config
from replicator.errors import LinkLost, Unavailable
from replicator.watch import MISMATCH_ARISEN

_SENTENCES = {
    True: "mismatch arisen: node {active} was left alone; what it acknowledges is held by one node only",
    False: "mismatch recovered: nodes {nodes} are level, all that was acknowledged is held by each of them",
}

Event = dict[str, Any]


def merged(told: Iterable[Iterable[Event]]) -> list[Event]:
    """Put the events of several nodes together: each once, as the first that saw it tells it, in their order."""
    found: dict[tuple[str, int, str], Event] = {}
    for event in (event for events in told for event in events):
        key = _key(event)
        if key not in found or event["at_ms"] < found[key]["at_ms"]:
            found[key] = event
    return sorted(
        found.values(), key=lambda event: (event["at_ms"], event["number"], event["event"] != MISMATCH_ARISEN)
    )


def _key(event: Event) -> tuple[str, int, str]:
    """What an event is known by, everywhere; a database that was begun anew counts from 1 again."""
    return (event["database"], event["number"], event["event"])


def line(event: Mapping[str, Any]) -> str:
    """Return one event as a person reads it."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at_ms"] / 1000))
    sentence = _SENTENCES[event["event"] == MISMATCH_ARISEN]
    text = sentence.format(active=event["active"], nodes=", ".join(event["in_sync"]))
    return f"{at}  #{event['number']} (view {event['view']})  {text}"


def ask_all(config: Config) -> list[Event]:
    """Ask all nodes at once. Raises Unavailable if none of them answers."""

    def ask(name: str) -> list[Event] | None:
        try:
            events: list[Event] = call_operator(config, name, "events", 0)
        except LinkLost:
            return None
        return events

    with ThreadPoolExecutor(max_workers=len(config.nodes)) as pool:
        told = list(pool.map(ask, config.nodes))
    if all(events is None for events in told):
        raise Unavailable(f"no node of {', '.join(config.nodes)} answers; the events are with the nodes")
    return merged(events for events in told if events is not None)


def run_events(config: Config, *, follow: bool, output: str) -> int:
    """Show the events; with *follow* go on until Ctrl-C, each once."""
    shown: set[tuple[str, int, str]] = set()
    pause = threading.Event()
    while True:
        try:
            events = ask_all(config)
        except Unavailable:
            if not follow:
                raise
            events = []  # all are away: they will tell when they are back
        for event in events:
            if _key(event) not in shown:
                shown.add(_key(event))
                print(json.dumps(event) if output == "json" else line(event), flush=True)
        if not follow:
            return 0
        pause.wait(WATCH_S)
