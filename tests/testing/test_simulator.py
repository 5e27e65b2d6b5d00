"""Seeds that always run, the same trace for the same seed, and planted bugs that are found."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from replicator.config import LimitsConfig, TimingConfig
from replicator.core import active
from replicator.core.backup import Backup
from replicator.errors import UsageError
from replicator.testing import Cluster
from replicator.testing.crashes import enumerate_crashes, one_call, one_return, one_switch
from replicator.testing.faults import Fault, draw
from replicator.testing.mutants import MUTANTS
from replicator.testing.mutation import hunt, planted
from replicator.testing.planting import Edit, Mutant
from replicator.testing.registers import Registers
from replicator.testing.shrink import reduced, shrink
from replicator.testing.simulate import main
from replicator.testing.simulator import Run, simulate
from replicator.testing.workloads import find

#: Seeds that failed once, and what they found: they stay.
FOUND = {
    11: "a joiner whose first batch was lost was never sent it again",
    50: "deadlines stood still for as long as a wall clock had jumped back",
    9525: "in mode durable a stale read showed what was on no disk yet",
    9784: "a checker took what a lone node had lost with its disk, told nobody, for a second order",
    668: "a late repeat within a forgotten transaction was refused as if it had done nothing",
}
FAR_S = 10.0**9
TIMING = TimingConfig(heartbeat_ms=50, suspect_ms=200, connect_ms=100)


IS_COMPILED = not str(active.__file__).endswith(".py")
needs_source = pytest.mark.skipif(IS_COMPILED, reason="a bug is planted in the sources, and this core is compiled")


@pytest.mark.parametrize("first", range(0, 200, 10))
def test_two_hundred_seeds_find_nothing(first: int) -> None:
    """Repeat one with `python3 run.py simulate --seed SEED`."""
    workload = find("registers")
    for seed in range(first, first + 10):
        report = simulate(draw(seed), workload)
        assert not report.failures, f"seed {seed}: {report.failures}\n{report.transcript[-4_000:]}"


@pytest.mark.parametrize("service", ["bank", "airline", "prepaid"])
def test_the_examples_survive_a_few_seeds(service: str) -> None:
    """The three examples under the same faults, each against its own model."""
    for seed in range(5):
        report = simulate(draw(seed), find(service))
        assert not report.failures, f"seed {seed}: {report.failures}\n{report.transcript[-4_000:]}"


@pytest.mark.parametrize("seed", sorted(FOUND))
def test_what_was_found_once_is_not_found_again(seed: int) -> None:
    """The seeds of the bugs that the simulator has found."""
    assert not simulate(draw(seed), find("registers")).failures


def test_a_seed_gives_the_same_trace_in_every_process() -> None:
    """Two processes with other hash seeds, and this one, print the same fingerprint."""
    lines = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "replicator.testing.simulate", "--seed", "7", "--quiet"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
        )
        lines.add(done.stdout.splitlines()[-1])
    [line] = lines
    report = simulate(draw(7), find("registers"))
    assert f"trace {report.fingerprint:08x}" in line


@needs_source
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.rule} {mutant.name}")
def test_every_mutant_fits_the_source(mutant: Mutant) -> None:
    """A guard that was rewritten would leave its mutant without a place to be planted."""
    with planted(mutant):
        pass


@needs_source
@pytest.mark.parametrize(
    "name", ["reply before the backups hold it", "what was sent counts as held", "a seq is used again"]
)
def test_a_planted_bug_is_found_and_gone_afterwards(name: str) -> None:
    """Three of the quick ones; `run.py simulate --mutants` hunts all."""
    [mutant] = [each for each in MUTANTS if each.name == name]
    found = hunt(mutant, 60, FAR_S * 10)
    assert found.checker, f"{name} survived {found.seeds} seeds"
    assert not simulate(draw(found.seeds - 1), find("registers")).failures


@needs_source
def test_a_mutant_that_does_not_fit_says_so() -> None:
    """A typing error in the table of mutants is no survivor."""
    with (
        pytest.raises(UsageError, match="does not fit"),
        planted(Mutant("V1", "nonsense", (Edit("replicator.core.active", "no such line", ""),))),
    ):
        pass


@needs_source
def test_two_edits_of_one_function_are_both_made() -> None:
    """Pairs within one function once lost all edits but the last: the guard that still stood hid the bug."""
    module, guard = "replicator.core.backup", "not in (None, frame.prev_chain):\n            return "
    pair = (Edit(module, 'return "gap"', 'return "one"'), Edit(module, guard + '"conflict"', guard + '"two"'))
    with planted(Mutant("V8", "a pair", pair)):
        assert {"one", "two"} <= set(Backup._accept.__code__.co_consts)
    assert not {"one", "two"} & set(Backup._accept.__code__.co_consts)


@needs_source
def test_a_failing_run_is_made_smaller_and_still_fails() -> None:
    """The shortest prefix of faults, then each one left out; the command repeats it."""
    [mutant] = [each for each in MUTANTS if each.name == "serves although it was replaced"]
    workload = find("registers")
    with planted(mutant):
        seed = hunt_seed(workload)
        options = draw(seed)
        failing = simulate(options, workload)
        small = shrink(options, workload, failing, tries_max=20)
        assert len(small.kept) < len(options.faults)
        again = simulate(reduced(options, small.kept, is_calm=small.is_calm), workload)
    assert again.failures == small.report.failures
    assert f"--seed {seed}" in small.command("registers")
    assert "--kept" in small.command("registers")


def hunt_seed(workload: object) -> int:
    """The first seed of many faults that fails now."""
    many = (seed for seed in range(100) if len(draw(seed).faults) >= 20)  # of a few, all may be needed
    return next(seed for seed in many if simulate(draw(seed), find("registers")).failures)


def test_a_fault_reads_back() -> None:
    """Faults are written and read as a line of text."""
    for fault in draw(3).faults:
        assert Fault.parse(str(fault)) == fault


@pytest.mark.skipif(not IS_COMPILED, reason="this core runs from its sources")
def test_a_compiled_core_says_that_no_bug_can_be_planted() -> None:
    """`run.py --compiled simulate --mutants` would find nothing, and look as if the checks were weak."""
    with pytest.raises(UsageError, match="leave out --compiled"), planted(MUTANTS[0]):
        pass


def test_the_command_tells_what_it_played(capsys: pytest.CaptureFixture[str]) -> None:
    """Options, counts of faults and Notes, and what was never seen."""
    assert main(["--seeds", "4", "--jobs", "1"]) == 0
    text = capsys.readouterr().out
    assert "4 seeds" in text
    assert "faults:" in text
    assert "notes never seen:" in text


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("--service nobody", "give one of"),
        ("--service os:path", "give one of"),
        ("--service :", "give one of"),
        ("--service no_such_module:WORKLOAD", "no_such_module"),
        ("--seeds 0", "--seeds"),
        ("--minutes -1", "--minutes"),
        ("--minutes nan", "--minutes"),
        ("--jobs 0", "--jobs"),
        ("--seed 1 --kept x", "--kept"),
        ("--seed 1 --kept 99", "--kept 99: seed 1 has"),
        ("--calm", "--seed"),
        ("--only V1", "--mutants"),
        ("--mutants --only nonsense", "nonsense"),
    ],
)
def test_wrong_use_of_the_command_is_told(arguments: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A line that names the option, exit status 2; a command that plays nothing is never green."""
    try:
        status = main(arguments.split())
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 2
    assert word in capsys.readouterr().err


@pytest.mark.parametrize("ack", ["applied", "received"])
@pytest.mark.parametrize("distributors", [0, 1])
def test_every_death_during_one_call_and_one_switch(ack: str, distributors: int) -> None:
    """Each process dies before each of its effects; the message takes effect exactly once all the same."""

    def make() -> Cluster[Registers]:
        return Cluster(Registers, nodes=3, seed=5, ack=ack, timing=TIMING, distributors=distributors)

    processes = ["a", "b", "c", "arbiter", "caller", *[f"distributor{number + 1}" for number in range(distributors)]]
    counts = enumerate_crashes(make, one_call, processes)
    assert min(counts[name] for name in ("a", "b", "c", "caller")) >= 3
    counts = enumerate_crashes(make, one_switch, processes)
    assert counts["arbiter"] >= 2
    assert sum(counts.values()) > 30


@pytest.mark.parametrize("ack", ["applied", "durable"])
def test_every_death_during_one_return_on_either_side_twice_in_a_row(ack: str) -> None:
    """The node that brings level, the one that returns, and the arbiter, before each of their effects."""

    def make() -> Cluster[Registers]:
        limits = LimitsConfig(join_entries_max=1, catchup_rows_max=2)
        return Cluster(Registers, nodes=2, seed=5, ack=ack, timing=TIMING, limits=limits)

    counts = enumerate_crashes(make, one_return, ["a", "b", "arbiter"])
    assert counts["a"] >= 20
    assert counts["b"] >= 20


def test_the_options_of_many_seeds_cover_every_kind_of_fault() -> None:
    """Swarm: no kind is in all runs, each is in some."""
    runs = [draw(seed) for seed in range(200)]
    kinds = [{fault.kind for fault in options.faults} for options in runs]
    for kind in set().union(*kinds):
        assert 10 < sum(kind in each for each in kinds) < 190


def test_a_run_that_cannot_settle_says_why() -> None:
    """A cluster whose nodes are all cut from the arbiter for good does not settle; the report says so."""
    options = draw(1)
    options.faults = []
    run = Run(options, find("registers"))
    for name in run.cluster.nodes:
        run.cluster.partition(name, "arbiter")
    report = run.play()
    assert report.checker == "liveness"
    assert "not settled" in report.failures[0]
