"""A link over a real cut, in network namespaces; run by test_transport_cut.py: `hub`, which runs the others, `serve`, `link`.

hub --- a: serves `echo`
 |----- b: a link that calls ten times a second, and connects again whenever it is down
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from replicator.config import LimitsConfig, TimingConfig
from replicator.transport import Link, Loop, Server
from tests.chaos.netns import Namespaces

#: The system tries again 0.2, 0.6, 1.4, 3.0 and 6.2 s after a cut.
CUT_S = 3.5


def say(words: object) -> None:
    """Write one line at once."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def hub(silence_ms: str) -> None:
    """Cut, mend, and print for how many seconds after that nothing was answered."""
    with Namespaces(("a", "b")) as links:
        me = [sys.executable, __file__]
        serving = subprocess.Popen([*links.prefixes["a"], *me, "serve"], stdout=subprocess.PIPE, text=True)
        assert serving.stdout is not None
        port = serving.stdout.readline().strip()
        calling = [*links.prefixes["b"], *me, "link", links.hosts["a"], port, silence_ms]
        caller = subprocess.Popen(calling, stdout=subprocess.PIPE, text=True)
        assert caller.stdout is not None
        try:
            for _ in range(3):
                assert caller.stdout.readline().startswith("answered")
            links.cut("a", "b")
            links.cut("b", "a")
            time.sleep(CUT_S)
            links.mend()
            mended_s = time.monotonic()
            while time.monotonic() - mended_s < 10:
                word, _, at_s = caller.stdout.readline().partition(" ")
                if word == "answered" and float(at_s) > mended_s:
                    say(float(at_s) - mended_s)
                    return
        finally:
            for process in (serving, caller):
                process.kill()
                process.wait()
                assert process.stdout is not None
                process.stdout.close()


def serve() -> None:
    """Serve `echo`, and print the port."""
    loop = Loop()
    endpoints = {"echo": {"echo": lambda request, value: request.reply(value)}}
    server = Server(loop, endpoints, host="0.0.0.0", port=0, limits=LimitsConfig(), timing=TimingConfig())
    say(server.address[1])
    loop.run()


def link(host: str, port: str, silence_ms: str) -> None:
    """Call, and print when an answer came."""
    loop = Loop()

    def call() -> None:
        loop.call_later(0.1, call)
        made.connect()
        if made.is_up:
            made.call("echo", (1,), lambda value: say(f"answered {time.monotonic()}"))

    made = Link(
        loop,
        "echo",
        lambda found: found((host, int(port))),
        message_bytes_max=1000,
        connect_ms=300,
        on_up=lambda: None,
        on_down=lambda refused: None,
        silence_ms=int(silence_ms),
    )
    call()
    loop.run()


if __name__ == "__main__":
    roles: dict[str, Callable[..., None]] = {"hub": hub, "serve": serve, "link": link}
    roles[sys.argv[1]](*sys.argv[2:])
