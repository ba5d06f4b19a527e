"""The HTTP client against a real server on the loopback."""

import json

import pytest
from endpoint import Endpoint, full

httpx = pytest.importorskip("httpx")

from monosem.analysis.evidence.explain.chat import Chat, Request, Unusable  # noqa: E402
from monosem.analysis.evidence.explain.completion import Answer, read_completion  # noqa: E402
from monosem.analysis.evidence.explain.estimate import Estimate  # noqa: E402


def requests(n=6):
    return [
        Request(
            (
                ("system", "be brief"),
                ("user", f"number {i} שלום"),
            ),
            20,
        )
        for i in range(n)
    ]


def echo(body):
    return body["messages"][-1]["content"].upper()


def chat(server, folder, **options):
    fast = {"progress": False, "backoff": 0.01, "timeout": 20, "api_key": "secret-key"} | options
    return Chat(server.url, "little", folder, **fast)


def plain(_, answer):
    return answer.text


def test_answers_keep_the_order_of_the_requests(tmp_path):
    with Endpoint(echo) as server, chat(server, tmp_path) as client:
        assert client.ask(requests(), plain) == [f"NUMBER {i} שלום" for i in range(6)]
        assert client.usage.requests == 6 and client.usage.prompt_tokens == 600
        body = server.bodies[0]
        assert body["model"] == "little" and body["max_tokens"] == 20 and body["temperature"] == 0
        assert [m["role"] for m in body["messages"]] == ["system", "user"]
        assert all(h["authorization"] == "Bearer secret-key" for h in server.headers)
    assert not any(b"secret" in f.read_bytes() for f in tmp_path.iterdir())


def test_answers_are_cached(tmp_path):
    with Endpoint(echo) as server:
        with chat(server, tmp_path) as client:
            first = client.ask(requests(4), plain)
        with chat(server, tmp_path) as client:
            assert client.ask(requests(4), plain) == first and len(server.bodies) == 4
            assert client.usage.cached == 4 and client.usage.requests == 0
            assert client.ask(requests(5), plain)[:4] == first and len(server.bodies) == 5
            assert client.cached(requests(5)[4]) and client.recall(requests(1)[0], lambda a: a.text) == first[0]
        with chat(server, tmp_path, options={"top_p": 0.5}) as other:
            assert not other.cached(requests(1)[0])
            other.ask(requests(1), plain)
            assert server.bodies[-1]["top_p"] == 0.5 and len(server.bodies) == 6
    with Endpoint(echo) as elsewhere, chat(elsewhere, tmp_path) as client:
        assert not client.cached(requests(1)[0])


@pytest.mark.parametrize("ailment", [429, 500, 503, "hang", "drop", "html", "empty"])
def test_transient_errors_are_retried(tmp_path, ailment):
    timeout = 1.5 if ailment == "hang" else 20  # a busy machine is slow, but not that slow
    with Endpoint(echo, (ailment, ailment)) as server, chat(server, tmp_path, concurrency=1, timeout=timeout) as client:
        assert client.ask(requests(2), plain) == ["NUMBER 0 שלום", "NUMBER 1 שלום"]
        assert client.usage.retries == 2 and len(server.bodies) == 4


def test_persistent_errors_end_with_their_status(tmp_path):
    with Endpoint(echo, (500,) * 50) as server, chat(server, tmp_path, concurrency=1, retries=2) as client:
        with pytest.raises(RuntimeError, match="failed 3 times, at last with status 500"):
            client.ask(requests(4), plain)
        assert len(server.bodies) == 3 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refused_request_is_not_retried(tmp_path, status):
    with Endpoint(echo, (status,) * 9) as server, chat(server, tmp_path, concurrency=1) as client:
        with pytest.raises(RuntimeError, match=f"answered {status}.*little") as error:
            client.ask(requests(4), plain)
        assert len(server.bodies) == 1 and "secret" not in str(error.value)


def test_an_unreachable_endpoint_is_reported(tmp_path):
    with Endpoint(echo) as server:
        pass
    with chat(server, tmp_path, retries=1) as client, pytest.raises(RuntimeError, match="ConnectError"):
        client.ask(requests(2), plain)


def test_answers_before_an_interruption_are_kept(tmp_path):
    with Endpoint(echo, (None, None, None, 401)) as server:
        with chat(server, tmp_path, concurrency=1) as client, pytest.raises(RuntimeError):
            client.ask(requests(6), plain)
        kept = len(list(tmp_path.iterdir()))
        assert kept == 3
        with chat(server, tmp_path) as client:
            assert None not in client.ask(requests(6), plain)
            assert client.usage.requests == 3 and client.usage.cached == 3


def test_concurrent_requests_are_limited(tmp_path):
    with Endpoint(echo, delay=0.02) as server, chat(server, tmp_path, concurrency=3, timeout=20) as client:
        client.ask(requests(15), plain)
        assert 1 < server.most_at_once <= 3


def test_an_unusable_answer_is_requested_again(tmp_path):
    def answer(body):
        return "fine" if body["seed"] == 1 and body["temperature"] > 0 else "nonsense"

    def parse(_, answer):
        if answer.text != "fine":
            raise Unusable("nonsense")
        return answer.text

    with Endpoint(answer) as server, chat(server, tmp_path) as client:
        assert client.ask(requests(2), parse) == ["fine", "fine"] and len(server.bodies) == 4
        assert client.recall(requests(1)[0], lambda t: parse(0, t)) == "fine"
        assert client.ask(requests(2), parse) == ["fine", "fine"] and len(server.bodies) == 4
    with Endpoint(lambda _: "nonsense") as server, chat(server, tmp_path / "b") as client:
        assert client.ask(requests(2), parse, attempts=2, what="w") == [None, None] and len(server.bodies) == 4
        assert client.unusable == {"w": {"nonsense": 4}}


def test_the_same_question_at_the_same_time_is_asked_once(tmp_path):
    with Endpoint(echo, delay=0.05) as server, chat(server, tmp_path) as client:
        assert client.ask(requests(1) * 8, plain) == ["NUMBER 0 שלום"] * 8
        assert len(server.bodies) == 1 and client.usage.requests == 1 and client.usage.cached == 7


def test_a_damaged_cached_answer_is_requested_again(tmp_path):
    with Endpoint(echo) as server, chat(server, tmp_path) as client:
        client.ask(requests(1), plain)
        (path,) = tmp_path.iterdir()
        path.write_text('{"answer": "NUM')
        assert client.ask(requests(1), plain) == ["NUMBER 0 שלום"] and len(server.bodies) == 2
        assert json.loads(path.read_text())["answer"] == "NUMBER 0 שלום"


def test_request_fields_can_be_omitted_or_renamed(tmp_path):
    options = {"seed": None, "max_tokens": None, "max_completion_tokens": 50}
    with Endpoint(echo) as server, chat(server, tmp_path, options=options) as client:
        client.ask(requests(1), plain)
        assert server.bodies[0].keys() == {"model", "messages", "temperature", "max_completion_tokens"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("ftp://x", "m"), "url: got"), (("http://x", ""), "model: got none")],
)
def test_bad_settings_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        Chat(*arguments, tmp_path)
    with pytest.raises(ValueError, match="concurrency"):
        Chat("http://x", "m", tmp_path, concurrency=0)


def test_requests_and_cost_are_estimated():
    e = Estimate(3, 1, 2_000_000, 1_000_000) + Estimate(1, 0, 0, 0)
    assert e.requests == 4 and e.cost((3.0, 15.0)) == pytest.approx(21.0)
    assert "21.00" in e.say((3.0, 15.0)) and "no price" in e.say(None)
    assert requests(1)[0].tokens >= 8


def test_a_request_that_the_context_has_no_room_for_is_reported(tmp_path):
    with Endpoint(full(9)) as server, chat(server, tmp_path, concurrency=1) as client:
        with pytest.raises(RuntimeError, match=r"maximum context length is 2048.*longer context; 4\d tokens") as error:
            client.ask(requests(2), plain)
        assert len(server.bodies) == 1 and "\n" not in str(error.value)
        assert client.ask(requests(2), plain, too_long=lambda i: f"long {i}") == ["long 0", "long 1"]


def test_an_answer_cut_off_by_the_context_is_too_long(tmp_path):
    def reply(tokens):
        choice = {"message": {"content": "half of it"}, "finish_reason": "length"}
        return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": tokens}}).encode()

    for tokens, cut in ((7, "context"), (20, "length"), (0, "length")):
        answer, _ = read_completion(reply(tokens), 20)
        assert answer.cut == cut and read_completion(reply(tokens))[0].cut == "length"
        assert Answer.from_dict(answer.to_dict()) == answer
