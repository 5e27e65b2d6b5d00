"""Own the way of messages to the nodes of one partition: which node, when, what again, and when to give up.

Pure: no clock, socket, thread or log. Time comes in as `now_ms` (monotonic), what is to be done goes out as effects.
The embedded distributor, the distributor process and the simulator drive the same code:

    routing.submit(...), routing.on_answers(...), routing.on_link_lost(...), ...   # inputs
    for effect in routing.flush(now_ms): perform(effect)                           # after inputs, and at next_wake_ms

A node's link, as routing sees it:

    DOWN --Connect--> CONNECTING --on_link_up--> UP --Call--> UP with one batch outstanding --on_answers--> UP
      ^---on_link_lost-----'------------------------------------on_link_lost, or Drop after silence---'

Claims, each with a test named after it:

1. A request is completed exactly once, whatever comes in whatever order.
2. A retry carries the same message bytes. What was outstanding on a lost link goes to the front again, in its order.
3. UNKNOWN is said if any send of the request may have been accepted; UNAVAILABLE and OVERLOADED only if every send was
   surely refused, or there was none.
4. The known view changes only to a higher number; an equal number may only fill in an active not known yet.
5. Ordered requests (all but stale reads) are outstanding at one node at a time, so none overtakes another at two
   nodes. One set aside by `Overloaded` does lose its place.
6. At most `requests_max` are held; one more is answered Overloaded at once.
7. A message that was outstanding at two nodes when they died is sent to no other (V22, `suspects.py`).

When to try which node is a matter of speed only, never of safety: the message's id makes a repeat harmless (P2).
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Iterable, Sequence

from distributor.effects import Call, Complete, Connect, Drop, Effect, Note
from distributor.known import KnownView
from distributor.states import PROBE_SILENCE_PART, LinkState, NodeState, Request, RoutingRules
from distributor.suspects import Suspects
from replicator.core.messages import Answer, Facts, Status
from replicator.errors import UsageError
from replicator.values import new_tuple, pack_wire, unpack_wire
from replicator.wire import FLAG_STALE, Outgoing, poison_answer, poison_ms

#: First rest of a node that could not be reached or was not active; doubles with each time in a row.
REST_MS_MIN = 5
#: A node that cannot be reached is tried at least this often: what a failover may lose by it.
REST_MS_MAX = 100
#: The same for one that answers that it is not active: it may be promoted at any moment, and asking is cheap.
REST_NOT_ACTIVE_MS_MAX = 20
#: A silent node rests for this part of the silence it cost, since each try of it may cost as much again.
SILENT_REST_PART = 4
#: After a lost call the next ones carry 1, 8, 64, ... messages: one that breaks the link must not take others with it.
GROWTH_AFTER_LOSS = 8
#: Said with Overloaded when the distributor itself is full.
RETRY_AFTER_MS = 20

NO_FACTS = Facts(0, 0, 0, 0, 0)
_FINAL_MAX = int(Status.REFUSED)


class Routing:
    """State machine of one partition; *nodes* are all names of its configuration, *seed* feeds the jitter."""

    def __init__(self, nodes: Iterable[str], rules: RoutingRules, *, seed: int) -> None:
        self.count = 0  # requests held
        self.suspects = Suspects(rules.poison_ms)
        self.known = KnownView()
        self._rules = rules
        self._nodes = {name: NodeState(name, rules.batch_entries_max) for name in nodes}
        self._random = random.Random(seed)
        self._ordered: deque[Request] = deque()
        self._stale: deque[Request] = deque()
        self._later: list[tuple[int, int, Request]] = []  # heap of (due_ms, number, request): set aside by Overloaded
        self._aim: NodeState | None = None  # where ordered requests are outstanding, or waited for to connect
        self._effects: list[Effect] = []
        self._number = 0
        self._stale_turn = 0
        self._deadline_ms = 0  # no request's deadline is before it, while any is held

    # -- inputs ------------------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether one more request would be answered Overloaded."""
        return self.count >= self._rules.requests_max

    def submit(self, token: object, message: bytes, ack: int, flags: int, deadline_ms: int, deaths: int = 0) -> Request:
        """Take a message that must be answered by *deadline_ms*, and that *deaths* nodes have died of. O(1)."""
        self._number += 1
        request = Request(self._number, token, message, ack, flags, deadline_ms, deaths)
        if self.is_full:
            self.count += 1
            self._complete(request, Answer(Status.OVERLOADED, pack_wire(["requests_max", RETRY_AFTER_MS]), NO_FACTS))
            return request
        if not self.count or deadline_ms < self._deadline_ms:
            self._deadline_ms = deadline_ms
        self.count += 1
        (self._stale if flags & FLAG_STALE else self._ordered).append(request)
        self.suspects.submitted(request)
        return request

    def look_around(self, now_ms: int) -> None:
        """Connect to whichever nodes may be tried now, though nothing waits: to learn of which database they are."""
        for node in self._nodes.values():
            if node.rest_until_ms <= now_ms:
                self._connect(node, now_ms)

    def on_link_up(self, name: str, life: str) -> None:
        """A connect that was asked for has succeeded; *life* is that of the process there."""
        node = self._nodes[name]
        if node.link is LinkState.CONNECTING:
            node.link = LinkState.UP
            if node.lost:
                self.suspects.learn_fate(node, has_died=life != node.life)
            node.life = life
            if self._aim is node:
                self._aim = None

    def on_link_lost(self, name: str, now_ms: int, *, is_gone: bool) -> None:
        """A link broke, or could not be made: what is outstanding there goes elsewhere, at once.

        *is_gone*: it could not be made as nobody listens there any more.
        """
        node = self._nodes[name]
        if node.link is LinkState.DOWN:
            return
        was_up = node.link is LinkState.UP
        is_news = was_up or not node.rest_ms
        if is_gone and not was_up and node.lost:
            self.suspects.learn_fate(node, has_died=True)
        self._lose(node, now_ms, is_broken=True)
        if is_news:
            self._effects.append(Note("node_unreachable", {"node": name, "was_up": was_up}))

    def on_given_up(self, name: str) -> None:
        """The driver closed the link for reasons of its own (a caller's deadline): the node is not to blame."""
        node = self._nodes[name]
        node.link = LinkState.DOWN
        self._take_back(node)

    def on_all_given_up(self) -> None:
        """The driver has closed every link: it does not know how far it was with any."""
        for name in self._nodes:
            self.on_given_up(name)

    def on_answers(self, name: str, call: int, answers: Sequence[Answer], now_ms: int) -> None:
        """Take the answers to one call. An answer to a call that was taken back is ignored. O(answers)."""
        node = self._nodes[name]
        requests = node.outstanding
        if requests is None or call != node.call:
            return
        if len(answers) != len(requests):
            self._drop(node, now_ms, f"sent {len(answers)} answers to {len(requests)} messages")
            return
        node.outstanding = None
        if now_ms - node.since_ms < self._rules.silence_ms // PROBE_SILENCE_PART:
            node.patience = 0
        if self._aim is node:
            self._aim = None
        back: list[Request] = []
        last: Answer | None = None
        for index, request in enumerate(requests):
            answer = answers[index]
            if answer.status <= _FINAL_MAX:
                last = answer
                if not request.is_done:
                    self._complete(request, answer)
            elif not request.is_done:
                self._on_refused(node, request, answer, now_ms, back)
        if last is not None:
            self._on_good(node, last, bool(requests[0].flags & FLAG_STALE))
        if back:
            self._put_back(back)

    def expire(self, now_ms: int) -> None:
        """Complete every request whose deadline has passed. O(1) until one may have, then O(requests)."""
        if not self.count or now_ms < self._deadline_ms:
            return
        earliest_ms: int | None = None
        for request in self.held():
            if request.is_done:
                continue
            if request.deadline_ms <= now_ms:
                self._give_up(request)
            elif earliest_ms is None or request.deadline_ms < earliest_ms:
                earliest_ms = request.deadline_ms
        if earliest_ms is not None:
            self._deadline_ms = earliest_ms
        self._ordered = deque(request for request in self._ordered if not request.is_done)
        self._stale = deque(request for request in self._stale if not request.is_done)

    def cancel(self, request: Request) -> None:
        """Forget a request that nobody waits for any more; it is not completed."""
        if not request.is_done:
            request.is_done = True
            request.token = None
            self.count -= 1

    def abandon(self) -> None:
        """Complete all requests: the distributor ends."""
        for request in list(self.held()):
            if not request.is_done:
                self._give_up(request)
        self._ordered.clear()
        self._stale.clear()
        self._later.clear()

    # -- effects -----------------------------------------------------------------------------------------------------

    def drain(self) -> list[Effect]:
        """Return what inputs have brought about, without sending anything new."""
        effects = self._effects
        if effects:
            self._effects = []
        return effects

    def flush(self, now_ms: int) -> list[Effect]:
        """Look at the time, form batches for nodes that are free, and return all effects."""
        if self.count:
            self.expire(now_ms)
        if self._later:
            self._take_due(now_ms)
        self.suspects.now_ms = now_ms
        if self.suspects.to_judge:
            self._refuse_poison(now_ms)
        for node in self._nodes.values():
            if node.outstanding is not None and now_ms - node.since_ms >= node.silence_ms(self._rules.silence_ms):
                self._drop(node, now_ms, f"silent for {now_ms - node.since_ms} ms")
            elif node.lost and node.fate_asks_left and node.link is LinkState.DOWN:
                node.fate_asks_left -= 1
                self._connect(node, now_ms)
        if self._ordered and self._aim is None:
            self._send_ordered(now_ms)
        if self._stale:
            self._send_stale(now_ms)
        return self.drain()

    def next_wake_ms(self, now_ms: int) -> int | None:
        """Return when `flush` must be called at the latest; None: not before the next input."""
        if not self.count:
            return None
        wake_ms = self._deadline_ms
        if self._later:
            wake_ms = min(wake_ms, self._later[0][0])
        is_waiting = bool(self._stale) or (bool(self._ordered) and self._aim is None)
        for node in self._nodes.values():
            if node.outstanding is not None:
                wake_ms = min(wake_ms, node.since_ms + node.silence_ms(self._rules.silence_ms))
            elif is_waiting and node.rest_until_ms > now_ms:
                wake_ms = min(wake_ms, node.rest_until_ms)
        return wake_ms

    def deadline_bound_ms(self) -> int | None:
        """Return a time before which `expire` has nothing to do; None if nothing is held."""
        return self._deadline_ms if self.count else None

    def earliest_deadline_ms(self, horizon_ms: int) -> int | None:
        """Return the earliest deadline if before *horizon_ms*, else None. O(1) when surely not, else O(requests)."""
        if not self.count or self._deadline_ms >= horizon_ms:
            return None
        self._deadline_ms = min(request.deadline_ms for request in self.held() if not request.is_done)
        return self._deadline_ms if self._deadline_ms < horizon_ms else None

    def status(self) -> dict[str, object]:
        """Return what `status` shows."""
        return {
            "view": self.known.number,
            "active": self.known.active,
            "in_sync": list(self.known.in_sync),
            "in_flight": self.count,
            "waiting": len(self._ordered) + len(self._stale) + len(self._later),
            "refused": self.suspects.refused,
            "links": {node.name: node.link.value for node in self._nodes.values()},
        }

    # -- sending -----------------------------------------------------------------------------------------------------

    def _send_ordered(self, now_ms: int) -> None:
        node = self._choose(now_ms)
        if node is None or self.suspects.must_wait(self._ordered[0], self._nodes.values()):
            return
        if node.link is not LinkState.UP:
            self._connect(node, now_ms)
            self._aim = node
            return
        node.is_probe = node.name != self.known.active and len(self._nodes) > 1
        if self._call(node, self._ordered, now_ms):
            self._aim = node

    def _choose(self, now_ms: int) -> NodeState | None:
        """Return the node to try next: the active, else those in sync, else any; None while all rest or are busy."""
        nodes = self._nodes
        for name in (self.known.active, *self.known.in_sync, *nodes):
            node = nodes.get(name)
            if node is not None and node.rest_until_ms <= now_ms and node.outstanding is None:
                return node
        return None

    def _send_stale(self, now_ms: int) -> None:
        """Give stale reads to the free nodes in turn, the active last."""
        names = list(self._nodes)
        turn = self._stale_turn % len(names)
        for name in sorted(names[turn:] + names[:turn], key=lambda name: name == self.known.active):
            node = self._nodes[name]
            if node.rest_until_ms > now_ms or node.outstanding is not None or not self._stale:
                continue
            if self.suspects.must_wait(self._stale[0], self._nodes.values()):
                return
            if node.link is LinkState.UP:
                self._stale_turn += 1
                node.is_probe = True
                self._call(node, self._stale, now_ms)
            elif node.link is LinkState.DOWN:
                self._connect(node, now_ms)
                return

    def _connect(self, node: NodeState, now_ms: int) -> None:
        if node.link is LinkState.DOWN:
            node.link = LinkState.CONNECTING
            node.since_ms = now_ms
            self._effects.append(Connect(node.name))

    def _call(self, node: NodeState, waiting: deque[Request], now_ms: int) -> bool:
        """Send what waits, as one batch; to a node that may not be the active only the first message; a suspect alone.

        O(batch).
        """
        entries_max = 1 if node.is_probe and waiting is self._ordered else node.entries_max
        bytes_left = self._rules.batch_bytes_max
        batch: list[Request] = []
        outgoing: list[Outgoing] = []
        while waiting and len(batch) < entries_max:
            request = waiting[0]
            if request.is_done:
                waiting.popleft()
                continue
            bytes_left -= len(request.message)
            if batch and (bytes_left < 0 or request.is_suspect):
                break
            waiting.popleft()
            request.is_out = True
            batch.append(request)
            left_ms = max(1, request.deadline_ms - now_ms)
            hop = (request.message, left_ms, request.ack, request.flags, request.deaths)
            outgoing.append(new_tuple(Outgoing, hop))
            if request.is_suspect:
                break
        if not batch:
            return False
        node.call += 1
        node.outstanding = batch
        node.since_ms = now_ms
        self._effects.append(Call(node.name, node.call, outgoing, node.silence_ms(self._rules.silence_ms)))
        return True

    # -- faults ------------------------------------------------------------------------------------------------------

    def _drop(self, node: NodeState, now_ms: int, reason: str) -> None:
        """Close the link to a node that says nothing, or nonsense."""
        self._effects.append(Drop(node.name))
        self._effects.append(Note("node_dropped", {"node": node.name, "reason": reason}))
        self._lose(node, now_ms, is_broken=False)

    def _lose(self, node: NodeState, now_ms: int, *, is_broken: bool) -> None:
        was_waited_for = node.outstanding is not None or node.link is LinkState.CONNECTING
        cost_ms = now_ms - node.since_ms if was_waited_for else 0
        if node.outstanding is not None:
            if 2 * cost_ms > node.silence_ms(self._rules.silence_ms):
                node.patience += 1
            node.entries_max = 1
            if self._rules.are_nodes:
                self.suspects.lose(node, node.outstanding, is_broken=is_broken)
        node.link = LinkState.DOWN
        self._take_back(node)
        self._rest(node, now_ms, REST_MS_MAX, at_least_ms=cost_ms // SILENT_REST_PART)

    def _rest(self, node: NodeState, now_ms: int, max_ms: int, *, at_least_ms: int = 0) -> None:
        """Leave a node alone for a while that doubles each time, with jitter: not all clients come at once."""
        node.rest_ms = min(max(REST_MS_MIN, node.rest_ms * 2), max_ms)
        jittered_ms = round(node.rest_ms * (0.75 + self._random.random() / 2))
        node.rest_until_ms = now_ms + max(1, jittered_ms, at_least_ms)

    def _take_back(self, node: NodeState) -> None:
        """Put what is outstanding at *node* to the front again; whether it arrived is unknown."""
        requests, node.outstanding = node.outstanding, None
        if self._aim is node:
            self._aim = None
        if requests:
            for request in requests:
                request.is_out = False
                request.is_unknown = True
            self._put_back([request for request in requests if not request.is_done])

    def _put_back(self, requests: list[Request]) -> None:
        """Merge *requests* into the waiting ones, in order of submission."""
        for is_stale in (0, FLAG_STALE):
            waiting = self._stale if is_stale else self._ordered
            mine = [request for request in requests if request.flags & FLAG_STALE == is_stale]
            if not mine:
                continue
            if not waiting or mine[-1].number < waiting[0].number:
                waiting.extendleft(reversed(mine))
                continue
            merged = deque(sorted([*mine, *waiting], key=lambda request: request.number))
            if is_stale:
                self._stale = merged
            else:
                self._ordered = merged

    def _on_refused(self, node: NodeState, request: Request, answer: Answer, now_ms: int, back: list[Request]) -> None:
        """Take an answer that is no outcome: try again, here later or elsewhere now."""
        request.is_out = False
        status = answer.status
        if status == Status.OVERLOADED:
            self._on_overloaded(request, answer, now_ms)
            return
        if poison_ms(answer) is not None:  # of a distributor: it sends it to nobody
            self._complete(request, answer)
            return
        back.append(request)
        if node.rest_until_ms <= now_ms:
            self._rest(node, now_ms, REST_NOT_ACTIVE_MS_MAX)
        if status == Status.NOT_ACTIVE:
            if self.known.learn(answer):
                self._on_new_active()
        elif status != Status.UNAVAILABLE:  # UNKNOWN: accepted and then dropped (V9). Anything else: cannot be told
            request.is_unknown = True

    def _on_overloaded(self, request: Request, answer: Answer, now_ms: int) -> None:
        """Set aside for as long as was asked for; give the refusal to the caller if the deadline is before that."""
        try:
            _, retry_after_ms = unpack_wire(answer.body)
            retry_after_ms = max(1, int(retry_after_ms))
        except (UsageError, TypeError, ValueError):
            retry_after_ms = REST_MS_MAX
        due_ms = now_ms + round(retry_after_ms * (1 + self._random.random() / 2))
        if due_ms < request.deadline_ms:
            heapq.heappush(self._later, (due_ms, request.number, request))
            return
        self._complete(request, Answer(Status.UNKNOWN, b"", NO_FACTS) if request.is_unknown else answer)

    def _take_due(self, now_ms: int) -> None:
        due: list[Request] = []
        while self._later and self._later[0][0] <= now_ms:
            request = heapq.heappop(self._later)[2]
            if not request.is_done:
                due.append(request)
        if due:
            self._put_back(sorted(due, key=lambda request: request.number))

    def _refuse_poison(self, now_ms: int) -> None:
        """Answer what has killed enough nodes (claim 7)."""
        for request, name in self.suspects.judge(now_ms):
            if name:
                self._effects.append(Note("poison", {"message": name, "ms": self.suspects.poison_ms}))
            if not request.is_done:
                self._complete(request, poison_answer(self.suspects.poison_ms))

    def _give_up(self, request: Request) -> None:
        """Complete without an outcome (claim 3)."""
        status = Status.UNKNOWN if request.is_unknown or request.is_out else Status.UNAVAILABLE
        self._complete(request, Answer(status, b"", NO_FACTS))

    def _complete(self, request: Request, answer: Answer) -> None:
        """Give the answer away, once; and the token, whose owner may hold the request: the two would be a ring."""
        request.is_done = True
        if request.trail is not None and answer.status <= Status.FAILED:
            self.suspects.acquit(request)
        self.count -= 1
        self._effects.append(new_tuple(Complete, (request.token, answer)))
        request.token = None

    def held(self) -> Iterable[Request]:
        """Return every request held, and some that are done."""
        for node in self._nodes.values():
            yield from node.outstanding or ()
        yield from self._ordered
        yield from self._stale
        for _, _, request in self._later:
            yield request

    # -- the known view ----------------------------------------------------------------------------------------------

    def _on_good(self, node: NodeState, answer: Answer, is_stale: bool) -> None:
        """Take an outcome as proof: the node lives and, unless it was a stale read, is the active of that view."""
        node.rest_ms = 0
        node.rest_until_ms = 0
        node.entries_max = min(node.entries_max * GROWTH_AFTER_LOSS, self._rules.batch_entries_max)
        if not is_stale and self.known.prove(node.name, answer.facts.view):
            self._on_new_active()

    def _on_new_active(self) -> None:
        node = self._nodes.get(self.known.active)
        if node is not None:
            node.rest_until_ms = 0  # whatever it was before, it has news
        if self.known.active:
            self._effects.append(Note("active_learned", {"view": self.known.number, "active": self.known.active}))
