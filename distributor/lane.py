"""Own one routing in a client's process: the callers' own threads drive it, one of them at a time.

A thread that finds nobody at it becomes the *leader*: it sends what waits, its own message and those of others in one
call, hands out the answers, and passes the lead on when its own is there. One caller alone so has no thread hop at all,
and many coalesce by themselves (PERFORMANCE.md, "coalesce at every hop"). Messages without a waiting thread (`start`)
have a background thread, begun with the first of them: it leads when nobody else does, and calls back.

Callers that were answered together mostly come back together. So while some of them are missing nobody leads: the first to
come is the *host*, who waits for a moment; the last to come leads, or the host when the moment is over.

Invariants: at most one leader, and only the leader touches links; a host is a follower, and there is none under a leader;
routing, followers and tickets are changed under the lock only; no callback and no input or output happens under the lock; a
thread that waits gives itself up at its deadline.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from distributor import log
from distributor.addresses import Finder
from distributor.background import Background, tell
from distributor.company import Company
from distributor.effects import Call, Complete, Connect, Drop, Effect, Note
from distributor.links import LinkRules, Links
from distributor.process import process
from distributor.routing import Routing
from distributor.states import RoutingRules
from distributor.tickets import CLOSED, LOST, OVERLOADED, Ticket, failed
from replicator.errors import LinkLost, UsageError
from replicator.meeting import Pin
from replicator.wire import Answer

#: How long `close` waits for the background thread to call back for the last time.
JOIN_S = 2.0

_lock_type = threading.Lock
_monotonic = time.monotonic


class Lane:
    """One routing, driven by its callers; many threads may share it."""

    def __init__(self, finders: Mapping[str, Finder], rules: RoutingRules, link_rules: LinkRules, pin: Pin) -> None:
        self._routing = Routing(finders, rules, seed=int.from_bytes(os.urandom(8), "big"))
        self._lock = threading.Lock()
        self._leader: Ticket | None = None
        self._is_closing = False  # nothing more is taken
        self._is_closed = False  # what was under way is given up
        self._followers: dict[Ticket, None] = {}
        self._links = Links(finders, link_rules, pin)
        self._bell = threading.Event()
        self._is_at_bell = False  # the leader waits there for a request
        self._company = Company()
        self._host: Ticket | None = None
        self._hosted_s = 0.0  # since when
        self._unsettled: deque[Effect] = deque()  # empty, but within `_settle`
        self._started: dict[Ticket, None] = {}  # tickets of `start` without an answer
        self._finished: list[Ticket] = []  # tickets of `start` whose callback is due
        self._background = Background("replicator-client", self._serve_background, self._on_background_failed)
        self._background_bell = threading.Condition(self._lock)
        self._idle = threading.Condition(self._lock)  # `close` waits here until nothing is under way
        self._forks = process.forks

    # -- callers -----------------------------------------------------------------------------------------------------

    def call(self, message: bytes, *, timeout_ms: int, ack: int, flags: int) -> Answer:
        """Send one message and wait for its answer. Raises: UsageError when closed or in a forked process."""
        ticket = Ticket(None)
        self._check_process()
        deadline_ms = _now_ms() + timeout_ms
        try:
            with self._lock:
                self._check_open()
                if self._routing.is_full:
                    return OVERLOADED
                ticket.request = self._routing.submit(ticket, message, ack, flags, deadline_ms)
                self._take_place(ticket)
            if self._leader is not ticket:
                self._follow(ticket)
            if self._leader is ticket:
                while not ticket.is_answered:
                    self._turn(deadline_ms)
                    if not ticket.is_answered and (not self._routing.count or _now_ms() > deadline_ms):
                        self._end_late(ticket)
                self._leave(ticket)
        except BaseException:  # interrupted, wherever: nobody waits for this answer, and somebody else must lead
            try:
                with self._lock:
                    self._mend(ticket)
            finally:
                self._leave(ticket)
            raise
        assert ticket.answer is not None
        return ticket.answer

    def _take_place(self, ticket: Ticket) -> None:
        """Lead if nobody does; else, or while company is missing, follow."""
        is_missing = self._leader is None and self._company.is_missing(self._routing.count)
        if self._leader is None and not is_missing:
            self._begin_to_lead(ticket)
            return
        ticket.gate = _lock_type()
        ticket.gate.acquire()
        self._followers[ticket] = None
        if is_missing and self._host is None:
            self._host, self._hosted_s = ticket, _monotonic()
        self._ring()

    def start(
        self, message: bytes, on_answer: Callable[[Answer], None], *, timeout_ms: int, ack: int, flags: int
    ) -> None:
        """Send one message; *on_answer* is called once, in the background thread. Raises: as `call`.

        A callback that blocks delays the callbacks after it, and nothing else.
        """
        ticket = Ticket(on_answer)
        self._check_process()
        deadline_ms = _now_ms() + timeout_ms
        with self._lock:
            self._check_open()
            self._background.ensure()
            if self._routing.is_full:
                ticket.answer = OVERLOADED
                self._finished.append(ticket)
            else:
                ticket.request = self._routing.submit(ticket, message, ack, flags, deadline_ms)
                self._started[ticket] = None
                self._ring()
            if self._leader is None or self._finished:
                self._background_bell.notify()

    def _ring(self) -> None:
        if self._is_at_bell:
            self._bell.set()

    def _check_process(self) -> None:
        if self._forks != process.forks:
            raise UsageError("this client was connected before os.fork(): connect in the process that uses it")

    def _check_open(self) -> None:
        if self._is_closing:
            raise UsageError("this client is closed: connect again")

    def _follow(self, ticket: Ticket) -> None:
        """Wait for the answer, or to be made the leader or the host; look at the own deadline."""
        gate, request = ticket.gate, ticket.request
        assert gate is not None
        assert request is not None
        while not ticket.is_answered and self._leader is not ticket:
            left_s = max(1, request.deadline_ms - _now_ms()) / 1000
            wait_s = min(left_s, self._company.wait_s) if self._host is ticket else left_s
            if gate.acquire(timeout=wait_s):
                continue
            now_ms = _now_ms()
            if now_ms < request.deadline_ms:
                self._end_gathering(ticket)
            else:
                self._end_late(ticket)

    def _end_late(self, ticket: Ticket) -> None:
        """The own deadline has passed. If that brings no answer, an interrupt of another caller has lost it: it is not known."""
        with self._lock:
            self._expire(_now_ms())
            if not ticket.is_answered:
                self._lose(ticket)
                self._see_to_a_leader()

    def _wake(self, ticket: Ticket) -> None:
        """Have a follower look at what it is now."""
        gate = ticket.gate
        if gate is not None and gate.locked():  # else it has been woken just now, and will find this as well
            gate.release()

    def _mend(self, interrupted: Ticket) -> None:
        """After an interrupt, which may have come in the middle of anything: what was begun for others is ended."""
        if self._leader is interrupted:  # nobody performs what it was about to do, or knows how far it was
            self._links.close_all()
            self._routing.on_all_given_up()
        self._settle(self._routing.drain())
        held = set(self._routing.held())
        for ticket in [*self._followers, *self._started]:
            if ticket.request is None or ticket.request.is_done or ticket.request not in held:
                self._lose(ticket)
            elif self._leader is ticket:
                self._followers.pop(ticket, None)
            self._wake(ticket)
        if self._leader is not None:  # chosen, and perhaps not woken
            self._wake(self._leader)

    def _lose(self, ticket: Ticket, answer: Answer = LOST) -> None:
        """End a ticket to which no answer can come any more, unless it has one already: the outcome is not known."""
        if ticket.request is not None:
            self._routing.cancel(ticket.request)
        self._hand_out(ticket, answer)
        self._tell_closer()

    def _expire(self, now_ms: int) -> None:
        """Answer those whose deadlines have passed; the host may be one of them."""
        self._routing.expire(now_ms)
        self._settle(self._routing.drain())
        self._see_to_a_leader()

    def _end_gathering(self, ticket: Ticket) -> None:
        """The moment is over: the host leads, unless another does by now or it has its answer."""
        with self._lock:
            if self._host is ticket and ticket.answer is None:
                del self._followers[ticket]
                self._begin_to_lead(ticket)

    # -- leading -----------------------------------------------------------------------------------------------------

    def _begin_to_lead(self, ticket: Ticket) -> None:
        assert self._leader is None
        self._leader = ticket
        if self._host is not None:
            self._host = None
            self._company.waited(self._routing.count, _monotonic() - self._hosted_s)

    def _leave(self, ticket: Ticket) -> None:
        """Be nothing any more, whatever the ticket was; another leads then. To do it again has no effect."""
        with self._lock:
            if ticket.request is not None:
                self._routing.cancel(ticket.request)  # unless it is answered
            self._followers.pop(ticket, None)
            if self._host is ticket:
                self._host = None
            if self._leader is ticket:
                self._leader = None
                if self._is_closed:
                    self._links.close_all()
            self._see_to_a_leader()
            self._tell_closer()

    def _see_to_a_leader(self) -> None:
        """If there is none: have a follower lead, or be the host while company is missing; else the background thread."""
        if self._leader is not None or self._host is not None:
            return
        for ticket in self._followers:
            if self._company.is_missing(self._routing.count):
                self._host, self._hosted_s = ticket, _monotonic()
            else:
                self._leader = ticket
                del self._followers[ticket]
            self._wake(ticket)
            return
        if self._started:
            self._background_bell.notify()

    def _turn(self, deadline_ms: int | None) -> None:
        """Do what routing wants done now, or wait until it wants something; not beyond *deadline_ms*."""
        with self._lock:
            if not self._routing.count:
                self._settle(self._routing.drain())
                return  # all are answered, by `close` or at their deadlines: nothing would ever ring
            now_ms = _now_ms()
            jobs, is_news = self._settle(self._routing.flush(now_ms))
            if not jobs and not is_news:
                wake_ms = self._routing.next_wake_ms(now_ms)
                self._bell.clear()
                self._is_at_bell = True
            if deadline_ms is None:
                deadline_ms = self._routing.earliest_deadline_ms(now_ms + 1_000)
        if jobs:
            for job in jobs:
                self._perform(job, now_ms, deadline_ms)
        elif not is_news:
            self._bell.wait(None if wake_ms is None else max(1, wake_ms - now_ms) / 1000)
            self._is_at_bell = False

    def _settle(self, effects: list[Effect]) -> tuple[list[Call | Connect], bool]:
        """Hand out answers; return what is left to do without the lock, and whether anything was handed out."""
        jobs: list[Call | Connect] = []
        is_news = False
        unsettled = self._unsettled
        unsettled.extend(effects)
        while unsettled:
            effect = unsettled[0]
            if type(effect) is Complete:
                is_news = True
                assert type(effect.token) is Ticket
                self._hand_out(effect.token, effect.answer)
            elif type(effect) is Call or type(effect) is Connect:
                jobs.append(effect)
            elif type(effect) is Drop:
                self._links.close(effect.node)
            elif type(effect) is Note:
                (log.warning if effect.event == "poison" else log.debug)("{}: {}", effect.event, effect.facts)
            unsettled.popleft()
        self._tell_closer()
        return jobs, is_news

    def _hand_out(self, ticket: Ticket, answer: Answer) -> None:
        """Answer a ticket. Again after an interrupt in the middle of it: then it is ended, and the first answer stays."""
        if ticket.answer is None:
            ticket.answer = CLOSED.get(answer.status, answer) if self._is_closed else answer
        if ticket in self._started:
            self._finished.append(ticket)
            del self._started[ticket]
            if len(self._finished) == 1:
                self._background_bell.notify()
        elif ticket in self._followers:
            self._wake(ticket)
            if self._host is ticket:
                self._host = None
            del self._followers[ticket]

    # -- input and output, by the leader, without the lock -----------------------------------------------------------

    def _perform(self, job: Call | Connect, now_ms: int, deadline_ms: int | None) -> None:
        if type(job) is Call:
            self._call(job, now_ms, deadline_ms)
        else:
            self._connect(job.node, now_ms, deadline_ms)

    def _call(self, job: Call, now_ms: int, deadline_ms: int | None) -> None:
        timeout_ms = job.silence_ms
        is_cut_short = deadline_ms is not None and deadline_ms - now_ms < timeout_ms
        if is_cut_short and deadline_ms is not None:
            timeout_ms = max(1, deadline_ms - now_ms)
        begin_s = _monotonic()
        try:
            answers = self._links.call(job.node, job.messages, timeout_ms)
        except (LinkLost, UsageError) as problem:
            log.debug("call_lost {}: {}", job.node, problem)
            self._links.close(job.node)
            with self._lock:
                after_ms = _now_ms()
                if is_cut_short and after_ms - now_ms >= timeout_ms:
                    self._routing.on_given_up(job.node)
                else:
                    self._routing.on_link_lost(job.node, after_ms, is_gone=False)
                self._settle(self._routing.drain())
            return
        except BaseException:  # interrupted: the answer may still come, and for no later call
            self._links.close(job.node)
            with self._lock:
                self._routing.on_given_up(job.node)
            raise
        with self._lock:
            self._company.answered(
                self._routing.count - len(self._started), _monotonic() - begin_s
            )  # futures do not wait
            self._routing.on_answers(job.node, job.call, answers, _now_ms())
            self._settle(self._routing.drain())

    def _connect(self, node: str, now_ms: int, deadline_ms: int | None) -> None:
        connect_ms = self._links.connect_ms
        if deadline_ms is not None:
            connect_ms = max(1, min(connect_ms, deadline_ms - now_ms))
        try:
            life = self._links.connect(node, connect_ms)
        except LinkLost as problem:
            log.debug("no_connection {}: {}", node, problem)
            with self._lock:
                self._routing.on_link_lost(node, _now_ms(), is_gone=problem.refused)
                self._settle(self._routing.drain())
            return
        except BaseException:  # interrupted
            with self._lock:
                self._routing.on_given_up(node)
            raise
        with self._lock:
            self._routing.on_link_up(node, life)

    # -- messages without a waiting thread ---------------------------------------------------------------------------

    def _serve_background(self) -> None:
        """Lead while nobody else does, and call back, until closed."""
        lock, own = self._lock, Ticket(None)
        with lock:
            while self._finished or not self._is_closed:
                if self._finished:
                    finished, self._finished = self._finished, []
                    lock.release()
                    try:
                        self._call_back(finished)
                    finally:
                        lock.acquire()
                elif self._started and self._leader is None:
                    self._begin_to_lead(own)
                    lock.release()
                    try:
                        self._lead_once(own)
                    finally:
                        self._leave(own)
                        lock.acquire()
                else:
                    self._await_work()

    def _call_back(self, finished: list[Ticket]) -> None:
        for ticket in finished:
            on_answer, ticket.on_answer = ticket.on_answer, None
            if on_answer is not None:  # else an interrupt has put it here twice
                assert ticket.answer is not None
                try:
                    on_answer(ticket.answer)
                except BaseException as problem:  # the user's, `sys.exit()` included: told, and the next is called
                    tell(problem)

    def _lead_once(self, own: Ticket) -> None:
        try:
            self._turn(None)
        except BaseException:
            with self._lock:
                self._mend(own)
            raise

    def _on_background_failed(self, problem: BaseException) -> None:
        """A fault of ours: whoever waits for this thread is told, so that nobody meets the same fault for ever."""
        with self._lock:
            for ticket in list(self._started):
                self._lose(ticket, failed(problem))

    def _await_work(self) -> None:
        """Wait until there is something to lead or to call back; somebody else leads, but looks at its deadline only."""
        now_ms = _now_ms()
        self._expire(now_ms)
        if not self._finished:
            wake_ms = self._routing.deadline_bound_ms() if self._started else None
            self._background_bell.wait(None if wake_ms is None else max(1, wake_ms - now_ms) / 1000)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self, *, drain_ms: int = 0) -> None:
        """End: take nothing more, wait for what is under way, *drain_ms* at most; it ends at its own deadlines anyway.

        Whoever still waits then is answered UNKNOWN, or UNAVAILABLE if no node can have taken its message.
        """
        try:
            with self._lock:
                if not self._is_closing:
                    self._is_closing = True
                    self._drain(drain_ms)
        finally:
            self._abandon()

    def _drain(self, drain_ms: int) -> None:
        """Wait until nothing is under way. Not in a callback, which holds up what it would wait for; not in a forked process."""
        end_s = _monotonic() + drain_ms / 1000
        while self._routing.count and not self._background.is_current and self._forks == process.forks:
            left_s = end_s - _monotonic()
            if self._is_closed or left_s <= 0:
                return
            self._idle.wait(left_s)

    def _tell_closer(self) -> None:
        if self._is_closing and not self._routing.count:
            self._idle.notify_all()

    def _abandon(self) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._routing.abandon()
            self._settle(self._routing.drain())
            self._bell.set()
            self._background_bell.notify_all()  # an interrupt may have left two
            self._idle.notify_all()
            if self._leader is None:
                self._links.close_all()
        if self._forks == process.forks:
            self._background.join(JOIN_S)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
