"""The configuration: checked whole at start, every mistake named by file and key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from replicator.config import describe, load
from replicator.errors import ConfigError

GOOD = '[database]\nname = "bank"\nservice = "bank:Bank"\n[nodes.a]\n[nodes.b]\n'


def write(folder: Path, text: str) -> Path:
    file = folder / "bank.toml"
    file.write_text(text)
    return file


def test_a_short_file_is_enough(tmp_path: Path) -> None:
    """Everything else has a default; data folders are beside the file and never shared."""
    config = load(write(tmp_path, GOOD))
    assert config.database.ack == "applied"
    assert [node.data for node in config.nodes.values()] == [tmp_path / "data-a", tmp_path / "data-b"]
    assert config.arbiter_file == tmp_path / "arbiter.sqlite"


def test_what_is_in_force_is_printed_as_toml(tmp_path: Path) -> None:
    """`replicator config` prints a file that says the same when it is read again, each key with its meaning."""
    config = load(write(tmp_path, GOOD))
    text = describe(config)
    assert "heartbeat_ms = 200  # default; ms between" in text
    again = write(tmp_path, text)
    assert load(again) == config
    keys = [line for line in text.splitlines() if re.match(r"\w+ =", line)]
    assert all("#" in line for line in keys)
    assert tomllib.loads(text)["nodes"].keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("name =", "nmae ="), "database.nmae: is unknown; did you mean database.name?"),
        (("[nodes.a]", "[nods.a]"), "nods: is unknown; did you mean nodes?"),
        (
            ("[nodes.a]", "[timing]\nheartbeat = 5\n[nodes.a]"),
            "timing.heartbeat: is unknown; did you mean timing.heartbeat_ms?",
        ),
        (('name = "bank"\n', ""), "database.name: is missing"),
        (('"bank:Bank"', '"bank"'), 'database.service: must be "module:Class"'),
        (('"bank:Bank"', "7"), "database.service: must be text in quotes, got 7"),
        (('"bank:Bank"', '"my bank:Bank"'), 'database.service: must be "module:Class"'),
        (('name = "bank"', 'name = "b\u00e4nk"'), "database.name: must be ASCII letters"),
        (("[nodes.a]", '[nodes."\u00e4"]'), "a node's name must be ASCII letters"),
        (("[nodes.a]", '[arbiter]\nurl = "embedded:"\n[nodes.a]'), 'arbiter.url: must be "embedded:FILE"'),
        (("[nodes.a]", '[distributor]\nhost = "10.0.0.1"\n[nodes.a]'), "distributor.host: 10.0.0.1 is not loopback"),
        (("[nodes.a]", '[arbiter]\nhost = "10.0.0.1"\n[nodes.a]'), "arbiter.host: 10.0.0.1 is not loopback"),
        (("[nodes.a]", "[nodes.a]\nport = true"), "nodes.a.port: must be a whole number"),
        (("[nodes.a]", "[nodes.a]\nport = 70000"), "nodes.a.port: must be a port from 0 to 65535"),
        (("[nodes.a]", '[nodes.a]\nhost = "10.0.0.1"'), "nodes.a.host: 10.0.0.1 is not loopback"),
        (("[nodes.a]", '[nodes.a]\ndata = "data-b"'), "two nodes have the same data folder"),
        (("[nodes.a]", '[nodes.a]\ndata = "x/../data-b"'), "two nodes have the same data folder"),
        (("[nodes.a]", '[nodes.a]\ndata = "Data-B"'), "differs by case only: that of nodes.a"),
        (("[nodes.a]", "[nodes.B]"), "nodes.b: differs from nodes.B by case only"),
        (
            ("[nodes.a]", '[arbiter]\nurl = "embedded:data-b/rows.sqlite"\n[nodes.a]'),
            "arbiter.url: is in the data folder of node b",
        ),
        (("[nodes.a]\n[nodes.b]", ""), "nodes: name at least one node"),
        (("[nodes.a]", '[nodes."a b"]'), "nodes.a b: a node's name must be"),
        (
            ("[nodes.a]", "[timing]\nsuspect_ms = 500\n[nodes.a]"),
            "timing.suspect_ms: must be at least 3 * heartbeat_ms",
        ),
        (("[nodes.a]", "[timing]\nconnect_ms = 5000\n[nodes.a]"), "timing.connect_ms: must be at most suspect_ms"),
        (("[nodes.a]", "[limits]\nrows_max = 0\n[nodes.a]"), "limits.rows_max: must be greater than 0"),
        (("[nodes.a]", "[limits]\nframe_bytes_max = 1000\n[nodes.a]"), "limits.frame_bytes_max: must have room"),
        (
            ("[nodes.a]", "[limits]\nrow_bytes_max = 16777216\n[nodes.a]"),
            "room for row_bytes_max + 65536: at least 16842752",
        ),
        (
            ("[nodes.a]", "[limits]\nreply_bytes_max = 16000000\n[nodes.a]"),
            "room for message_bytes_max + reply_bytes_max",
        ),
        (("[nodes.a]", "[limits]\ntsd_bytes_max = 16000000\n[nodes.a]"), "room for reply_bytes_max + tsd_bytes_max"),
        (
            ("[nodes.a]", "[limits]\nrows_bytes_max = 1000\n[nodes.a]"),
            "limits.rows_bytes_max: must be at least row_bytes",
        ),
        (
            ("[nodes.a]", "[limits]\nfifo_bytes_max = 1000\n[nodes.a]"),
            "limits.fifo_bytes_max: must be at least message_b",
        ),
        (
            ("[nodes.a]", "[limits]\nbuffers_bytes_max = 134217727\n[nodes.a]"),
            "limits.buffers_bytes_max: must be at least 8 * frame_bytes_max",
        ),
        (
            ("[nodes.a]", "[limits]\nconnection_bytes_max = 16777217\n[nodes.a]"),
            "limits.connection_bytes_max: must be at most frame_bytes_max",
        ),
        (
            ("[nodes.a]", "[limits]\nconnections_max = 100\n[nodes.a]"),
            "limits.connections_reserved: must be less than connections_max",
        ),
        (('"bank"', '"bank"\nack = "durable"\nstore = "memory"'), "database.ack: durable needs a store on disk"),
        (('"bank"', '"bank"\nack = "sure"'), "database.ack: must be async, received, applied or durable"),
        (('"bank"', '"bank"\nstore = "postgres"'), "database.store: must be sqlite or memory"),
        (('"bank"', '"bank"\non_no_backup = "wait"'), "database.on_no_backup: must be continue or stop"),
        (("[nodes.a]", '[arbiter]\nurl = "etcd://x"\n[nodes.a]'), 'arbiter.url: must be "embedded:FILE"'),
        (("[nodes.a]", "[nodes.a]\nx = = 1"), "is not TOML: Invalid value (at line 5, column 5)"),
        (("[database]", "[database"), "is not TOML"),
    ],
)
def test_a_mistake_is_named_by_file_and_key(change: tuple[str, str], sentence: str, tmp_path: Path) -> None:
    file = write(tmp_path, GOOD.replace(*change))
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(file) in str(caught.value)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("section", ["arbiter", "distributor", "nodes.a"])
def test_the_advice_to_say_insecure_can_be_followed(section: str, tmp_path: Path) -> None:
    """What the message tells to write is accepted."""
    addressed = GOOD.replace("[nodes.a]\n", "") + f'[{section}]\nhost = "10.0.0.1"\n'
    file = write(tmp_path, addressed)
    with pytest.raises(ConfigError, match="say insecure = true"):
        load(file)
    load(write(tmp_path, addressed + "insecure = true\n"))


def test_own_values_and_defaults_are_told_apart(tmp_path: Path) -> None:
    """A data folder that nobody named is a default, too; text beyond ASCII can be read back."""
    file = write(tmp_path, GOOD + 'data = "d\u00e4ta \U0001f4be"\n[timing]\nsuspect_ms = 1500\n')
    text = describe(load(file))
    lines = {line.split("  # ")[0]: line.split("  # ")[1].split(";")[0] for line in text.splitlines() if "  # " in line}
    assert lines["suspect_ms = 1500"] == "own"
    assert lines["heartbeat_ms = 200"] == "default"
    assert lines[f'data = "{tmp_path}/data-a"'] == "default"
    assert lines[f'data = "{tmp_path}/d\u00e4ta \U0001f4be"'] == "own"
    assert load(write(tmp_path, text)).nodes["b"].data == tmp_path / "d\u00e4ta \U0001f4be"


def test_an_unknown_node_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    config = load(write(tmp_path, GOOD.replace("nodes.b", "nodes.berlin")))
    assert config.node("a").port == 0
    with pytest.raises(ConfigError, match=r"no \[nodes.berln\]; did you mean berlin\?"):
        config.node("berln")
    with pytest.raises(ConfigError, match="nodes are: a, berlin"):
        config.node("zz")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.toml")
