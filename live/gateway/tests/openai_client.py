"""Conformance with the official openai client, and with raw HTTP, against a running gateway.

Needs: pip install openai, which brings httpx2
Run:   OPENLEDGER_URL=http://127.0.0.1:8080 OPENLEDGER_KEY=ol-... python openai_client.py

OPENLEDGER_MODEL and OPENLEDGER_EMBEDDING_MODEL choose models; else the first of each kind is taken.
OPENLEDGER_LIMITED_KEY, a key of one request a minute, adds the checks of rate limits.
"""

import asyncio
import base64
import json
import math
import os
import struct
import sys
import time
import traceback

import httpx2 as httpx
import openai

URL = os.environ["OPENLEDGER_URL"].rstrip("/")
KEY = os.environ["OPENLEDGER_KEY"]
LIMITED_KEY = os.environ.get("OPENLEDGER_LIMITED_KEY")
ASK = [{"role": "user", "content": "Name three colours of the rainbow."}]
CHECKS = []


def check(function):
    """Registers a check; its name says what must hold."""
    CHECKS.append(function)
    return function


def client(**options):
    options.setdefault("api_key", KEY)
    options.setdefault("max_retries", 0)
    return openai.OpenAI(base_url=URL + "/v1", timeout=300, **options)


def http(key=KEY):
    headers = {"Authorization": "Bearer " + key} if key else {}
    return httpx.Client(base_url=URL, headers=headers, timeout=300)


def model_of(work, chosen):
    if os.environ.get(chosen):
        return os.environ[chosen]
    for model in client().models.list():
        if model.openledger["work"] == work:
            return model.id
    raise AssertionError(f"no model for {work}")


MODEL = model_of("generate", "OPENLEDGER_MODEL")
EMBEDDING_MODEL = model_of("embed", "OPENLEDGER_EMBEDDING_MODEL")


def chat(**options):
    options = {"model": MODEL, "messages": ASK, "max_tokens": 16, "seed": 7, **options}
    return client().chat.completions.create(**options)


def stream_text(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def raises(kind, status, function):
    try:
        function()
    except kind as error:
        assert error.status_code == status, error.status_code
        assert set(error.response.json()["error"]) == {"message", "type", "param", "code"}, error.response.text
        return error
    raise AssertionError(f"no {kind.__name__}")


@check
def models_are_listed_and_retrieved():
    models = client().models.list().data
    assert models and all(model.object == "model" for model in models)
    assert client().models.retrieve(MODEL).id == MODEL


@check
def a_chat_has_text_usage_and_evidence():
    answer = chat()
    assert answer.object == "chat.completion" and answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and usage.prompt_tokens > 0
    assert set(answer.openledger) == {
        "receipt", "trust", "assurance", "price", "charge_micro_credits", "node", "region", "attempts",
    }


@check
def headers_name_request_receipt_and_limits():
    raw = client().chat.completions.with_raw_response.create(
        model=MODEL, messages=ASK, max_tokens=1, extra_headers={"x-request-id": "conformance-1"}
    )
    assert raw.headers["x-request-id"] == "conformance-1"
    assert raw.headers["x-openledger-receipt"] == raw.parse().openledger["receipt"]
    for kind in ("requests", "tokens"):
        for what in ("limit", "remaining", "reset"):
            assert raw.headers[f"x-ratelimit-{what}-{kind}"]


@check
def a_seed_gives_the_same_text_again():
    first, second = chat(temperature=1.0), chat(temperature=1.0)
    assert first.choices[0].message.content == second.choices[0].message.content


@check
def another_seed_gives_another_text():
    texts = {chat(temperature=1.5, seed=seed).choices[0].message.content for seed in range(4)}
    assert len(texts) > 1, texts


@check
def a_stream_has_the_same_text():
    whole = chat().choices[0].message.content
    assert stream_text(chat(stream=True)) == whole


@check
def a_stream_opens_with_the_role_and_ends_with_a_reason():
    chunks = list(chat(stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert all(chunk.object == "chat.completion.chunk" and chunk.id == chunks[0].id for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)


@check
def a_stream_tells_its_usage_if_asked():
    whole = chat().usage
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage == whole
    assert all(chunk.usage is None for chunk in chunks[:-1])


@check
def raw_events_are_data_lines_and_end_with_done():
    body = {"model": MODEL, "messages": ASK, "max_tokens": 4, "stream": True}
    with http().stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-openledger-node"] and response.headers["x-openledger-receipt"]
        text = response.read().decode()
    events = text.split("\n\n")
    assert events.pop() == "" and events[-1] == "data: [DONE]"
    assert all(json.loads(event.removeprefix("data: "))["model"] == MODEL for event in events[:-1])


@check
def the_token_limit_holds():
    for name in ("max_tokens", "max_completion_tokens"):
        answer = client().chat.completions.create(model=MODEL, messages=ASK, seed=7, **{name: 3})
        assert answer.usage.completion_tokens <= 3
        if answer.usage.completion_tokens == 3:
            assert answer.choices[0].finish_reason in ("length", "stop")


@check
def a_stop_string_ends_the_text_before_it():
    text = chat(temperature=0.0, max_tokens=24).choices[0].message.content
    stop = text.split()[2][:3] if len(text.split()) > 2 else text[1:3]
    answer = chat(temperature=0.0, max_tokens=24, stop=[stop])
    assert answer.choices[0].message.content == text[: text.index(stop)], (text, stop)
    assert answer.choices[0].finish_reason == "stop"
    assert stream_text(chat(temperature=0.0, max_tokens=24, stop=stop, stream=True)) == text[: text.index(stop)]


@check
def chat_log_probabilities_are_ordered_and_spell_the_text():
    answer = chat(temperature=0.0, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) >= 1
    spelled = b"".join(bytes(token.bytes or []) for token in tokens).decode("utf-8", "replace")
    assert answer.choices[0].message.content.strip() in spelled
    for token in tokens:
        top = [other.logprob for other in token.top_logprobs]
        assert token.logprob <= 0 and len(top) == 3 and top == sorted(top, reverse=True)


@check
def streamed_log_probabilities_are_those_of_the_whole():
    whole = chat(logprobs=True).choices[0].logprobs.content
    pieces = []
    for chunk in chat(logprobs=True, stream=True):
        if chunk.choices and chunk.choices[0].logprobs:
            pieces += chunk.choices[0].logprobs.content or []
    assert [piece.token for piece in pieces] == [token.token for token in whole]


@check
def text_completions_work_whole_and_streamed():
    options = {"model": MODEL, "prompt": "The sky is", "max_tokens": 8, "seed": 3}
    whole = client().completions.create(**options)
    assert whole.object == "text_completion" and whole.choices[0].text
    stream = client().completions.create(stream=True, **options)
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == whole.choices[0].text


@check
def text_completions_have_their_log_probabilities():
    answer = client().completions.create(model=MODEL, prompt="The sky is", max_tokens=4, logprobs=2, seed=3)
    logprobs = answer.choices[0].logprobs
    counts = {len(logprobs.tokens), len(logprobs.token_logprobs), len(logprobs.top_logprobs), len(logprobs.text_offset)}
    assert len(counts) == 1 and counts.pop() > 0
    assert all(value <= 0 for value in logprobs.token_logprobs)


@check
def system_and_developer_messages_and_text_parts_are_accepted():
    for role in ("system", "developer"):
        parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "hello."}]
        messages = [{"role": role, "content": "Be brief."}, {"role": "user", "content": parts}]
        assert chat(messages=messages, max_tokens=2).choices


@check
def an_answer_can_be_sent_back():
    first = chat(max_tokens=4)
    messages = ASK + [first.choices[0].message.model_dump(), {"role": "user", "content": "And now?"}]
    assert chat(messages=messages, max_tokens=2).usage.prompt_tokens > first.usage.prompt_tokens


def vectors(texts, **options):
    answer = client().embeddings.create(model=EMBEDDING_MODEL, input=texts, **options)
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return [item.embedding for item in answer.data]


def distance(a, b):
    assert len(a) == len(b)
    return max(abs(x - y) for x, y in zip(a, b))


@check
def vectors_are_the_same_as_numbers_and_in_base64():
    texts = ["a red apple", "a fast car", "ein roter Apfel"]
    numbers, by_default = vectors(texts, encoding_format="float"), vectors(texts)
    coded = http().post(
        "/v1/embeddings", json={"model": EMBEDDING_MODEL, "input": texts, "encoding_format": "base64"}
    ).json()
    for at, vector in enumerate(numbers):
        raw = base64.b64decode(coded["data"][at]["embedding"])
        unpacked = struct.unpack(f"<{len(raw) // 4}f", raw)
        assert distance(vector, unpacked) < 1e-6 and distance(vector, by_default[at]) < 1e-6


@check
def a_batch_of_texts_has_the_vectors_of_single_ones():
    texts = ["one", "two words", "three words here"]
    batch = vectors(texts)
    for text, vector in zip(texts, batch):
        assert distance(vectors(text)[0], vector) < 1e-4
        assert math.isfinite(sum(vector)) and any(vector)
    assert distance(batch[0], batch[1]) > 1e-3


@check
def a_quote_is_charged_by_who_names_it_in_the_extra_body():
    body = {"model": MODEL, "messages": ASK, "max_tokens": 16}
    quote = client().post("/quotes", body=body, cast_to=object)
    assert quote["object"] == "quote" and quote["expected_micro_credits"] <= quote["worst_case_micro_credits"]
    answer = chat(extra_body={"openledger": {"quote": quote["id"], "max_price": quote["worst_case_micro_credits"]}})
    assert answer.openledger["price"] == quote["price"]
    assert answer.openledger["charge_micro_credits"] <= quote["worst_case_micro_credits"]
    made_up = lambda: chat(extra_body={"openledger": {"quote": "olq-AAAA"}})
    assert raises(openai.BadRequestError, 400, made_up).code == "quote_unknown"


@check
def a_refusal_names_its_gates_and_can_be_asked_about():
    error = raises(openai.BadRequestError, 400, lambda: chat(extra_body={"openledger": {"max_price": 0}}))
    gates = error.response.json()["openledger"]["gates"]
    assert error.param == "openledger.max_price" and gates[-1]["gate"] == "price" and not gates[-1]["passed"]
    task = error.response.headers["x-openledger-receipt"]
    assert client().get(f"/tasks/{task}/why", cast_to=object)["gates"] == gates


@check
def vectors_have_usage_and_evidence():
    answer = client().embeddings.create(model=EMBEDDING_MODEL, input="some text")
    assert answer.object == "list" and answer.usage.total_tokens == answer.usage.prompt_tokens > 0
    assert answer.openledger["receipt"]


@check
def a_wrong_key_is_an_authentication_error():
    wrong = client(api_key="ol-" + "A" * 43)
    error = raises(openai.AuthenticationError, 401, lambda: wrong.models.list())
    assert error.code == "invalid_api_key"
    assert http(key=None).get("/v1/models").status_code == 401


@check
def an_unknown_model_is_not_found():
    error = raises(openai.NotFoundError, 404, lambda: chat(model="no-such-model"))
    assert error.code == "model_not_found" and error.param == "model"
    raises(openai.NotFoundError, 404, lambda: client().models.retrieve("no-such-model"))
    raises(openai.NotFoundError, 404, lambda: chat(model="no-such-model", stream=True))


@check
def bad_parameters_are_bad_requests_that_name_them():
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    for name, options in {
        "temperature": {"temperature": 3},
        "top_p": {"top_p": 2},
        "n": {"n": 2},
        "tools": {"tools": [tool]},
        "response_format": {"response_format": {"type": "json_object"}},
        "logit_bias": {"logit_bias": {"5": 1}},
        "presence_penalty": {"presence_penalty": 1},
        "top_logprobs": {"top_logprobs": 2},
        "messages": {"messages": []},
        "max_tokens": {"max_tokens": 0},
        "stop": {"stop": ["a", "b", "c", "d", "e"]},
        "speed": {"extra_body": {"speed": 9}},
        "openledger.region": {"extra_body": {"openledger": {"region": "Europe"}}},
        "openledger.min_trust": {"extra_body": {"openledger": {"min_trust": 1.5}}},
    }.items():
        error = raises(openai.BadRequestError, 400, lambda options=options: chat(**options))
        assert error.param == name, (name, error.param)


@check
def a_model_of_the_other_kind_is_refused():
    raises(openai.BadRequestError, 400, lambda: chat(model=EMBEDDING_MODEL))
    create = client().embeddings.create
    raises(openai.BadRequestError, 400, lambda: create(model=MODEL, input="x"))


@check
def malformed_and_oversized_bodies_are_refused():
    headers = {"content-type": "application/json"}
    for content, status in ((b"{", 400), (b"[]", 400), (b'{"a":1,"a":2}', 400), (b" " * (2 << 20), 413)):
        response = http().post("/v1/chat/completions", content=content, headers=headers)
        assert response.status_code == status and response.json()["error"]["message"], response.text


@check
def other_paths_and_methods_are_refused_in_the_same_form():
    assert http().get("/v1/nothing").json()["error"]["code"] == "not_found"
    response = http().get("/v1/chat/completions")
    assert response.status_code == 405 and response.json()["error"]["code"] == "method_not_allowed"


@check
def an_idempotency_key_gives_the_same_answer_once():
    body = {"model": MODEL, "messages": ASK, "max_tokens": 8}
    key = {"Idempotency-Key": f"conformance-{time.time_ns()}"}
    first = http().post("/v1/chat/completions", json=body, headers=key)
    again = http().post("/v1/chat/completions", json=body, headers=key)
    assert first.status_code == 200 and first.content == again.content
    assert again.headers["idempotent-replayed"] == "true"
    other = http().post("/v1/chat/completions", json={**body, "max_tokens": 9}, headers=key)
    assert other.status_code == 422


@check
def receipts_become_ready_and_unknown_ones_are_not_found():
    receipt = chat(max_tokens=2).openledger["receipt"]
    for _ in range(150):
        response = http().get(f"/v1/receipts/{receipt}")
        assert response.status_code == 200 and response.json()["id"] == receipt, response.text
        if response.json()["status"] == "ready":
            break
        assert response.json()["status"] == "pending"
        time.sleep(0.2)
    assert response.json()["status"] == "ready" and response.json()["receipt"]
    assert http().get("/v1/receipts/" + "0" * 32).status_code == 404


@check
def a_stream_that_is_closed_early_leaves_the_gateway_well():
    for _ in range(3):
        stream = chat(stream=True, max_tokens=64)
        next(iter(stream))
        stream.close()
    assert chat(max_tokens=1).choices


@check
def concurrent_requests_do_not_mix():
    async def all_of_them():
        asking = openai.AsyncOpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0, timeout=300)
        create = asking.chat.completions.create
        answers = await asyncio.gather(
            *(create(model=MODEL, messages=ASK, max_tokens=6, seed=seed % 4) for seed in range(12))
        )
        return [answer.choices[0].message.content for answer in answers]

    texts = asyncio.run(all_of_them())
    assert texts[:4] == texts[4:8] == texts[8:], texts


@check
def health_and_metrics_are_open():
    assert http(key=None).get("/health").json()["ready"] is True
    metrics = http(key=None).get("/metrics").text
    assert "gen_ai_server_time_to_first_token_seconds_count" in metrics


def a_rate_limit_is_a_rate_limit_error():
    def twice():
        for _ in range(2):
            client(api_key=LIMITED_KEY).chat.completions.create(model=MODEL, messages=ASK, max_tokens=1)

    error = raises(openai.RateLimitError, 429, twice)
    assert int(error.response.headers["retry-after"]) >= 1 and int(error.response.headers["retry-after-ms"]) >= 1


def main():
    if LIMITED_KEY:
        CHECKS.append(a_rate_limit_is_a_rate_limit_error)
    failed = 0
    for function in CHECKS:
        name = function.__name__.replace("_", " ")
        try:
            function()
            print(f"ok      {name}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  {name}", flush=True)
            traceback.print_exc()
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
