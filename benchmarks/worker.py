"""One client process of a benchmark: some threads, one kind of traffic, a fixed time; prints one line of JSON.

    python -m benchmarks.worker '{"kind": "replicated", "target": "x.toml", "threads": 4, "seconds": 2, "batch": 1, ...}'

Reads one line from its standard input before it starts, so that all workers begin together.
"""

from __future__ import annotations

import json
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from benchmarks.service import PAYLOAD, Prepaid

#: One unit of work: does it, and returns how many messages it was and how long each took (seconds).
Work = Callable[[], tuple[int, list[float]]]


def replicated(options: dict[str, Any], number: int) -> Work:
    """Transactions through the product's client."""
    from replicator import connect, submit, transaction, with_options

    shared = options["shared"]
    if "client" not in shared:
        manager = connect(Prepaid, options["target"], distributor=options["distributor"])
        shared["manager"] = manager
        shared["client"] = with_options(manager.__enter__(), ack=options["ack"], timeout_s=30.0)
    client = shared["client"]
    card = f"{options['process']}-{number}"
    batch = int(options["batch"])

    def one_transaction() -> tuple[int, list[float]]:
        with transaction(client) as call:
            t0 = time.perf_counter()
            call.authorize(card=card, pin="1234", destination=PAYLOAD)
            t1 = time.perf_counter()
            call.terminate(seconds=1)
            t2 = time.perf_counter()
        return 2, [t1 - t0, t2 - t1]

    def one_batch() -> tuple[int, list[float]]:
        t0 = time.perf_counter()
        futures: list[Future[int]] = [submit(client.charge, card, 1, PAYLOAD) for _ in range(batch)]
        for future in futures:
            future.result()
        return batch, [time.perf_counter() - t0]

    return one_transaction if batch == 1 else one_batch


def pyro(options: dict[str, Any], number: int) -> Work:
    """Calls of a Pyro5 object with a text of 200 characters; a batch is one call with a list of them."""
    import Pyro5.api

    Pyro5.config.SERIALIZER = options["serializer"]
    proxy = Pyro5.api.Proxy(options["target"])
    batch = int(options["batch"])
    payload = PAYLOAD * 2

    def one_call() -> tuple[int, list[float]]:
        t0 = time.perf_counter()
        proxy.echo(payload)
        return 1, [time.perf_counter() - t0]

    def one_batch() -> tuple[int, list[float]]:
        t0 = time.perf_counter()
        proxy.echo([payload] * batch)
        return batch, [time.perf_counter() - t0]

    return one_call if batch == 1 else one_batch


def tcp(options: dict[str, Any], number: int) -> Work:
    """Round trips of 200 bytes on a bare socket; a batch is 200 * batch bytes."""
    host, port = options["target"].split(":")
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    batch = int(options["batch"])
    data = b"x" * 200 * batch

    def one_round_trip() -> tuple[int, list[float]]:
        t0 = time.perf_counter()
        sock.sendall(data)
        missing = len(data)
        while missing:
            missing -= len(sock.recv(missing))
        return batch, [time.perf_counter() - t0]

    return one_round_trip


KINDS: dict[str, Callable[[dict[str, Any], int], Work]] = {"replicated": replicated, "pyro": pyro, "tcp": tcp}


def run_thread(options: dict[str, Any], number: int, barrier: threading.Barrier, results: list[Any]) -> None:
    """Work until the time is over."""
    work = KINDS[options["kind"]](options, number)
    work()
    barrier.wait()
    end_s = time.perf_counter() + float(options["seconds"])
    count, times = 0, []
    while time.perf_counter() < end_s:
        done, took = work()
        count += done
        times += took
    results[number] = (count, times)


def main() -> None:
    """Run the threads, print the result."""
    options: dict[str, Any] = json.loads(sys.argv[1])
    options["shared"] = {}
    threads_count = int(options["threads"])
    results: list[Any] = [None] * threads_count
    barrier = threading.Barrier(threads_count + 1)
    if options["kind"] == "replicated":
        replicated(options, 0)  # connects once, before the threads share it
    threads = [
        threading.Thread(target=run_thread, args=(options, number, barrier, results), daemon=True)
        for number in range(threads_count)
    ]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    sys.stdin.readline()
    barrier.wait()
    cpu0 = time.process_time()
    t0 = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed_s = time.perf_counter() - t0
    cpu_s = time.process_time() - cpu0
    if any(result is None for result in results):
        sys.exit("a thread failed")
    times = sorted(took for result in results for took in result[1])
    count = sum(result[0] for result in results)
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = max(1, len(times) // 2000)
    print(
        json.dumps({"count": count, "elapsed_s": elapsed_s, "cpu_s": cpu_s, "times": times[::step], "peak_kb": peak_kb})
    )
    manager = options["shared"].get("manager")
    if manager is not None:
        manager.__exit__(None, None, None)


if __name__ == "__main__":
    main()
