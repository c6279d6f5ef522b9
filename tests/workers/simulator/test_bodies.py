"""What simulated senders post, how long they wait, and what is counted: pure functions."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.events import Broken, Error, Message, Status
from workers.events.parsing import parse
from workers.simulator import bodies, verifying
from workers.simulator.bodies import ERRORS, KINDS, MESSAGES, STATUSES, Content, Notification
from workers.simulator.counters import Latencies, Tally
from workers.simulator.delays import DELAYS
from workers.simulator.verifying import Check, Findings

EVENTS = {MESSAGES: Message, STATUSES: Status, ERRORS: Error}
RUN = "00000000"

weights = st.floats(0, 10)
contents = st.builds(
    Content,
    form=st.sampled_from(["cloud", "onprem"]),
    mix=st.fixed_dictionaries(dict.fromkeys(KINDS, weights)).filter(lambda mix: sum(mix.values()) > 0),
    contacts=st.integers(1, 50),
    batch=st.integers(1, 40),
    seed=st.integers(0, 1000),
    run=st.just(RUN),
)


@given(contents)
def test_bodies_are_read_as_meant(content: Content) -> None:
    """Every body of either form parses into the events it was made for, none broken, each in full."""
    for notification in itertools.islice(content.notifications(), 30):
        events = parse(notification.body, 0)
        assert [type(event) for event in events] == [EVENTS[notification.kind]] * notification.updates
        for event in events:
            assert not isinstance(event, Broken)
            assert event.source == content.form
            assert (event.business is not None) == (content.form == "cloud")
            assert event.subject
            if isinstance(event, Message):
                assert event.timestamp
                assert event.name
                assert isinstance(event.raw[event.type or ""], dict)
            if isinstance(event, Status):
                assert event.timestamp
                assert event.recipient
                if content.form == "cloud" or event.status == "sent":
                    assert event.pricing


@given(contents)
def test_ids_are_told_apart(content: Content) -> None:
    """No two messages have one id, no two statuses one id and stage, and ids lead back to the update's number."""
    seen: set[tuple[str | None, str | None]] = set()
    for notification in itertools.islice(content.notifications(), 30):
        numbers = itertools.count(notification.first)
        for n, event in zip(numbers, parse(notification.body, 0), strict=False):
            if isinstance(event, Error):
                continue
            assert isinstance(event, Message | Status)
            known = bodies.recognise(event.id)
            assert known is not None
            assert (known.run, known.outgoing) == (RUN, isinstance(event, Status))
            number = known.sequence * content.contacts + known.contact
            if isinstance(event, Status):
                number = bodies.status_of(number, bodies.STAGES.index(event.status or ""))
            assert number == n
            assert (event.id, event.subject if known.outgoing else None) not in seen
            seen.add((event.id, event.subject if known.outgoing else None))


@given(st.integers(0, 10**9))
def test_status_numbers(n: int) -> None:
    """The number of a status and its message and stage lead to each other."""
    assert bodies.status_of(*bodies.outgoing_of(n)) == n


def test_life_cycle() -> None:
    """Each message of the business is sent, then delivered, then read, and others are on their way between."""
    statuses = [bodies.outgoing_of(n) for n in range(480)]
    for outgoing in range(160):
        places = [statuses.index((outgoing, stage)) for stage in range(3)]
        assert places == sorted(places)
        assert places[1] - places[0] > 1


def test_mix_and_types() -> None:
    """Kinds come in the proportions of the mix; messages are of several types, half of them text."""
    some = list(itertools.islice(Content(contacts=7, seed=3).notifications(), 8000))
    kinds = Counter(notification.kind for notification in some)
    assert 2.7 < kinds[STATUSES] / kinds[MESSAGES] < 3.3
    assert 0 < kinds[ERRORS] < 80
    messages: Any = [parse(one.body, 0)[0] for one in some if one.kind == MESSAGES]
    types = Counter(message.type for message in messages)
    assert set(types) == {"text", "image", "audio", "location", "button", "interactive"}
    assert 0.4 < types["text"] / len(messages) < 0.6
    assert len({message.order_key for message in messages}) == 7


def test_same_seed_same_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed and a run give the same bodies each time; another seed gives others."""
    monkeypatch.setattr(bodies.time, "time", lambda: 1.7e9)
    first, again, other = (
        [one.body for one in itertools.islice(Content(seed=seed, run=RUN).notifications(), 100)] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_cloud_escapes() -> None:
    """Cloud bodies are written as Meta writes them, slashes and what is not ASCII escaped; On-Premises they are not."""
    for form, escaped in (("cloud", True), ("onprem", False)):
        content = Content(form, mix={MESSAGES: 1}, batch=500)  # type: ignore[arg-type]
        body = next(content.notifications()).body
        assert body.isascii() is escaped
        assert (rb"https:\/\/" in body) is escaped
        assert "https://" in json.dumps(json.loads(body))


def test_full_batch_fits() -> None:
    """A thousand updates stay below the 3 MB that the Cloud API documents."""
    for form, kind in itertools.product(("cloud", "onprem"), (MESSAGES, STATUSES)):
        content = Content(form, mix={kind: 1}, batch=1000)  # type: ignore[arg-type]
        assert len(next(content.notifications()).body) < 1 << 20  # aiohttp's limit for a body in one piece


@pytest.mark.parametrize(
    "wrong",
    [
        {"mix": {"messages": -1}},
        {"mix": {"messages": float("nan")}},
        {"mix": {"other": 1}},
        {"mix": {}},
        {"batch": 1001},
        {"contacts": 0},
        {"run": "x"},
    ],
)
def test_impossible_content(wrong: dict[str, Any]) -> None:
    """Content that no sender would send is refused."""
    with pytest.raises(ValueError, match=r"."):
        Content(**wrong)


@pytest.mark.parametrize(
    "id", [None, "", "wamid.xyz", "sim.1.2.3", "sim.00000000.1.1x", "sim.00000000.1.p1", "s" * 999]
)
def test_others_are_not_recognised(id: str | None) -> None:
    """An id of another form is not taken for a simulated one."""
    assert bodies.recognise(id) is None


def waits(form: Any) -> list[float]:
    delays, total, found = DELAYS[form], 0.0, []
    for failures in itertools.count(1):
        total += delays.wait(failures)
        if total > delays.give_up:
            return found
        found.append(delays.wait(failures))
    raise AssertionError


def test_onprem_delays() -> None:
    """On-Premises: 3 s more each time, at most 15 minutes, 239 retries in 24 hours."""
    found = waits("onprem")
    assert found[:4] == [3, 6, 9, 12]
    assert len(found) == 239
    assert DELAYS["onprem"].wait(1000) == 900


def test_cloud_delays() -> None:
    """Cloud: 1 s, doubling to 6 hours, for 7 days."""
    found = waits("cloud")
    assert found[:4] == [1, 2, 4, 8]
    assert found == sorted(found)
    assert found[-1] == 6 * 3600 == DELAYS["cloud"].wait(10_000)
    assert 6.7 * 86400 < sum(found) <= 7 * 86400


@given(st.lists(st.floats(1e-5, 1000), min_size=1))
def test_quantiles(seconds: list[float]) -> None:
    """Quantiles are those of the sorted times, to one per cent; the longest and the slow ones are exact."""
    latencies = Latencies()
    for one in seconds:
        latencies.add(one)
    seconds.sort()
    for share in (0.01, 0.5, 0.9, 1.0):
        rank = max(1, -(-int(share * 100) * len(seconds) // 100))
        assert latencies.quantile(share) == pytest.approx(seconds[rank - 1], rel=0.0101)
    assert latencies.longest == seconds[-1]
    assert latencies.slow == sum(one > 1 for one in seconds)


@pytest.mark.parametrize(
    ("times", "verdict"),
    [
        ([], None),
        ([0.2] * 200 + [1.5], True),
        ([0.2] * 50 + [1.5], False),
        ([0.3] * 10, False),
        ([0.1] * 51 + [0.9] * 49, True),
    ],
)
def test_rule(times: list[float], verdict: bool | None) -> None:
    """The senders' rule: a median of at most 250 ms, and less than 1 % over 1 s, once something was acknowledged."""
    tally = Tally()
    for one in times:
        tally.latencies.add(one)
    assert tally.fast_enough is None  # these answers may all have been refusals
    tally.acknowledged = len(times)
    assert tally.fast_enough is verdict


# The check


def record(n: int, kind: str = MESSAGES, contacts: int = 2) -> bytes:
    """What a worker writes down of the n-th update."""
    number, stage = bodies.outgoing_of(n) if kind == STATUSES else (n, -1)
    sequence, contact = divmod(number, contacts)
    return verifying._RECORD.pack(stage + 1, contact, sequence)


def check_of(*numbers: int, kind: str = MESSAGES) -> Check:
    """Of two contacts, each update posted alone and acknowledged before the next one."""
    check = Check(Content(contacts=2, run=RUN))
    for n in numbers:
        check.begun(Notification(b"", kind, n))
        check.acknowledged(Notification(b"", kind, n))
    return check


@pytest.mark.parametrize(
    ("handled", "findings"),
    [
        ([0, 1, 2, 3], Findings(4, 4, 0, 0, 0)),
        ([1, 0, 3, 2], Findings(4, 4, 0, 0, 0)),  # contacts among each other have no order
        ([0, 1, 3], Findings(4, 3, 1, 0, 0)),
        ([0, 1, 1, 2, 3, 1], Findings(4, 4, 0, 1, 0)),
        ([2, 1, 0, 3], Findings(4, 4, 0, 0, 1)),
        ([3, 2, 0, 1, 2], Findings(4, 4, 0, 1, 2)),
        ([], Findings(4, 0, 4, 0, 0)),
    ],
)
def test_check(handled: list[int], findings: Findings) -> None:
    """Messages are counted missing, handled twice, or after a later one of their contact."""
    check = check_of(0, 1, 2, 3)
    check.handled(map(record, handled))
    assert check.findings() == findings
    assert findings.good is (findings[2:5] == (0, 0, 0))


def test_check_of_statuses() -> None:
    """Statuses may come in any order, but each of them once."""
    check = check_of(*range(48), kind=STATUSES)
    check.handled(record(n, STATUSES) for n in reversed(range(1, 48)))
    check.handled([record(7, STATUSES)])
    assert check.findings() == Findings(48, 47, 1, 1, 0)


def test_check_of_concurrent_messages() -> None:
    """Messages of one contact that were under way together have no order; with the next one they have."""
    check = Check(Content(contacts=1, run=RUN))
    for n in (0, 1):
        check.begun(Notification(b"", MESSAGES, n))
    for n in (1, 0):
        check.acknowledged(Notification(b"", MESSAGES, n))
    check.begun(Notification(b"", MESSAGES, 2))
    check.acknowledged(Notification(b"", MESSAGES, 2))
    check.handled(record(n, contacts=1) for n in (1, 0, 2))
    assert check.findings() == Findings(3, 3, 0, 0, 0)
    late = Check(Content(contacts=1, run=RUN))
    late.begun(Notification(b"", MESSAGES, 0, 2))  # one body: its messages have an order
    late.acknowledged(Notification(b"", MESSAGES, 0, 2))
    late.handled(record(n, contacts=1) for n in (1, 0))
    assert late.findings() == Findings(2, 2, 0, 0, 1)


def test_check_of_what_was_given_up() -> None:
    """A message that was given up may be handled or not, at any time, but not twice."""
    for handled, repeated in (((0, 4), 0), ((0, 2, 4), 0), ((0, 4, 2), 0), ((0, 2, 4, 2), 1)):
        check = check_of(0)
        check.begun(Notification(b"", MESSAGES, 2))
        check.begun(Notification(b"", MESSAGES, 4))
        check.acknowledged(Notification(b"", MESSAGES, 4))
        check.handled(map(record, handled))
        assert check.findings() == Findings(2, 2, 0, repeated, 0)
