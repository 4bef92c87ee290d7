#!/usr/bin/env python3
"""A gateway and ten nodes as processes of one machine, under the faults that `openledger sim tails|churn|overload` models.

Usage: docs/bench/live/run.py target/release/openledger [--seconds 60] [--slots 2] > record.json

Every node has the tiny model, some slots and one thread, in two regions. A node is slow while it is stopped nine tenths of the time
(SIGSTOP and SIGCONT, ten times a second). Everything is made anew and taken away at the end.
"""
import argparse
import asyncio
import itertools
import json
import os
import random
import re
import signal
import subprocess
import tempfile
import time

NODES, SLOW = 10, 3
# Every answer has as many: texts of a random model end by chance, and the same question with the same seed has the same answer.
TOKENS, DIFFERENT = 300, 24
# Of what was answered at most in a second.
LOAD = 0.3
QUESTION = "count the ports "


def quantile(values, share):
    values = sorted(values)
    return round(values[min(len(values) - 1, int(share * len(values)))] * 1e3) if values else None


class Network:
    def __init__(self, program, folder, slots):
        self.program, self.folder, self.nodes, self.slots = os.path.abspath(program), folder, {}, slots
        self.log = open(f"{folder}/log", "w")
        words = ["gateway", "--data-dir", f"{folder}/gateway", "--listen", "127.0.0.1:0", "--node-listen", "127.0.0.1:0",
                 "--requests-per-minute", "1000000", "--tokens-per-minute", "100000000", "--prompt-price", "1",
                 "--output-price", "1", "--epoch-seconds", "5"]
        self.gateway = self.start(*words)
        self.port = int(re.search(r":(\d+)/v1", self.line(self.gateway, "API ")).group(1))
        self.key, self.ticket = self.line(self.gateway, "API key").split()[-1], self.line(self.gateway, "ticket").split()[-1]
        for number in range(NODES):
            self.join(number)

    def start(self, *words):
        return subprocess.Popen([self.program, *words], stdout=subprocess.PIPE, stderr=self.log, text=True)

    @staticmethod
    def line(process, begins):
        for line in process.stdout:
            if line.startswith(begins):
                return line.strip()
        raise SystemExit(f"it ended before it said {begins!r}")

    def join(self, number):
        self.nodes[number] = self.start(
            "node", "--join", self.ticket, "--data-dir", f"{self.folder}/node-{number}", "--model", "tiny", "--embedding-model",
            "tiny", "--slots", str(self.slots), "--threads", "1", "--region", "ab"[number % 2])
        self.line(self.nodes[number], "node")

    def end(self):
        for process in [*self.nodes.values(), self.gateway]:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        for process in [*self.nodes.values(), self.gateway]:
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()

    async def send(self, method, path, body=None):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = json.dumps(body).encode() if body is not None else b""
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.key}\r\nConnection: close\r\n"
                     f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        answer = await reader.read()
        writer.close()
        head, _, rest = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), rest

    async def ask(self, number, region=None):
        """Status, seconds and the answer."""
        body = {"model": "tiny", "messages": [{"role": "user", "content": f"{QUESTION}{number}"}], "max_tokens": TOKENS,
                "seed": number, "temperature": 1.0}
        if region:
            body["openledger"] = {"prefer_region": region}
        began = time.monotonic()
        status, rest = await self.send("POST", "/v1/chat/completions", body)
        return status, time.monotonic() - began, json.loads(rest)

    async def metric(self, name):
        _, text = await self.send("GET", "/metrics")
        return int(re.search(rf"^openledger_{name} (\d+)$", text.decode(), re.M).group(1))


class Row:
    """What was asked and what came of it."""

    def __init__(self, what):
        self.what, self.took, self.refused, self.failed, self.answers, self.began = what, [], 0, [], [], time.monotonic()
        self.ends = []

    def take(self, result):
        status, took, answer = result
        if status == 200:
            self.took.append(took)
            self.answers.append(answer)
            self.ends.append(time.monotonic())
        elif status in (429, 503) and "error" in answer and answer["error"]["code"] != "internal":
            self.refused += 1
        else:
            self.failed.append((status, answer))

    def report(self, **more):
        p50, p99 = quantile(self.took, 0.5), quantile(self.took, 0.99)
        return {"what": self.what, "answered": len(self.took), "refused": self.refused, "lost": len(self.failed),
                "p50_ms": p50, "p99_ms": p99, "p99_over_p50": round(p99 / p50, 2) if p50 else None, **more}


async def asked(network, row, rate, seconds, numbers, region=None):
    """Requests at random, so many a second in the mean."""
    tasks, until = [], time.monotonic() + seconds
    draw = random.Random(7)

    async def one():
        try:
            row.take(await network.ask(next(numbers), region))
        except (OSError, ValueError, IndexError) as error:
            row.failed.append((0, str(error)))

    while time.monotonic() < until:
        await asyncio.sleep(draw.expovariate(rate))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)


async def peak(network, in_flight, seconds, numbers):
    """As many at a time as there are slots: what is answered in a second."""
    row, until = Row("as many at a time as there are slots"), time.monotonic() + seconds

    async def client():
        while time.monotonic() < until:
            row.take(await network.ask(next(numbers)))

    await asyncio.gather(*(client() for _ in range(in_flight)))
    return row, sum(end < until for end in row.ends) / seconds


async def slowed(network, numbers, stop):
    while not stop.is_set():
        for name, span in (("SIGSTOP", 0.09), ("SIGCONT", 0.01)):
            for number in numbers:
                network.nodes[number].send_signal(getattr(signal, name))
            await asyncio.sleep(span)


async def killed(network, every, stop):
    """Kills one node after the other; each is back after five seconds."""
    draw, kills = random.Random(3), 0
    while not stop.is_set():
        await asyncio.sleep(every)
        number = draw.randrange(NODES)
        network.nodes[number].kill()
        network.nodes[number].wait()
        kills += 1
        await asyncio.sleep(5)
        await asyncio.to_thread(network.join, number)
    return kills


async def paid_twice(network, answers):
    """Answers whose receipts charge more than their clients were told."""
    twice = 0
    for answer in answers:
        status, rest = await network.send("GET", "/v1/receipts/" + answer["openledger"]["receipt"])
        document = json.loads(rest)
        if status != 200 or document["status"] != "ready":
            continue
        charges = [attempt["charge"] for attempt in document["receipt"]["attempts"]]
        usage = answer["usage"]
        twice += sum(c["output_tokens"] for c in charges) > usage["completion_tokens"] or \
            sum(c["prompt_tokens"] for c in charges) > usage["prompt_tokens"]
    return twice


async def whole(network):
    """Questions whose answers have all their tokens."""
    found, number = [], 0
    while len(found) < DIFFERENT:
        _, _, answer = await network.ask(number)
        if answer["usage"]["completion_tokens"] == TOKENS:
            found.append(number)
        number += 1
    return itertools.cycle(found)


async def measure(network, seconds):
    rows = []
    deadline = time.monotonic() + 30
    while await network.metric("slots") < NODES * network.slots and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    numbers = await whole(network)
    await peak(network, NODES * network.slots, 5, numbers)

    top, most = await peak(network, NODES * network.slots, seconds / 2, numbers)
    rows.append(top.report(answers_per_second=round(most, 1)))
    rate = LOAD * most

    calm = Row("nobody is slow")
    await asked(network, calm, rate, seconds, numbers)
    rows.append(calm.report(load=LOAD))

    async def second_attempts():
        return await network.metric("attempts_raced_total") + await network.metric("attempts_moved_total")

    stop, before = asyncio.Event(), await second_attempts()
    slow = asyncio.create_task(slowed(network, range(SLOW), stop))
    tails = Row(f"{SLOW} of {NODES} nodes are stopped nine tenths of the time")
    await asked(network, tails, rate, seconds, numbers)
    stop.set()
    await slow
    for number in range(SLOW):
        network.nodes[number].send_signal(signal.SIGCONT)
    more = await second_attempts() - before
    rows.append(tails.report(load=LOAD, second_attempts_pct=round(100 * more / max(1, len(tails.took)), 1)))

    stop, churn = asyncio.Event(), Row("a node is killed each quarter of a minute, and back after five seconds")
    kills = asyncio.create_task(killed(network, 10, stop))
    await asked(network, churn, rate, seconds, numbers)
    stop.set()
    count = await kills
    await asyncio.sleep(8)
    rows.append(churn.report(load=LOAD, kills=count, paid_twice=await paid_twice(network, churn.answers)))

    full = Row("as much is asked for as can be answered")
    began = time.monotonic()
    await asked(network, full, most, seconds / 2, numbers)
    at_peak = sum(end < began + seconds / 2 for end in full.ends) / (seconds / 2)
    rows.append(full.report(load=1, answers_per_second=round(at_peak, 1)))

    over = Row("three times as much is asked for as can be answered")
    began = time.monotonic()
    await asked(network, over, 3 * most, seconds / 2, numbers)
    during = sum(end < began + seconds / 2 for end in over.ends) / (seconds / 2)
    rows.append(over.report(load=3, goodput_pct_of_peak=round(100 * during / max(most, at_peak), 1),
                            p99_over_p99_at_peak=round(quantile(over.took, 0.99) / max(1, quantile(full.took, 0.99)), 2)))

    lost = Row("all nodes of the preferred region are killed")
    task = asyncio.create_task(asked(network, lost, rate, 20, numbers, "a"))
    await asyncio.sleep(8)
    for number in range(0, NODES, 2):
        network.nodes[number].kill()
    fell = time.monotonic()
    await task
    after = [end for end in lost.ends if end > fell]
    gaps = [b - a for a, b in zip([fell, *after], after)]
    rows.append(lost.report(load=LOAD, longest_pause_ms=round(max(gaps, default=0) * 1e3)))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--slots", type=int, default=2, help="of each node")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        network = Network(args.program, folder, args.slots)
        try:
            rows = asyncio.run(measure(network, args.seconds))
        finally:
            network.end()
    print(json.dumps({"nodes": NODES, "slots": NODES * network.slots, "tokens": TOKENS, "seconds": args.seconds, "rows": rows}))


if __name__ == "__main__":
    main()
