#!/usr/bin/env python3
"""Real gateways and nodes in five regions of one machine: a network namespace each, with delays, losses and slow uplinks between.

Usage, as root: docs/bench/regions/run.py target/release/openledger [--loss 0.01] [--seconds 60] > record.json

Packets between the namespaces pass through this program, over TUN devices, as it works on kernels without netem. Each region has
two nodes with the tiny model; requests come to one gateway and prefer a region each, the first region's four times as often in the
middle third of the time. Everything is made anew and taken away at the end.
"""
import argparse
import concurrent.futures
import ctypes
import fcntl
import heapq
import http.client
import json
import os
import random
import select
import signal
import struct
import subprocess
import tempfile
import threading
import time

# Name, round trip to the gateway in ms, uplink in bytes a second: a home line, a data centre, ...
REGIONS = [("eu-north", 20, 1_250_000), ("eu-south", 45, 12_500_000), ("us-east", 95, 12_500_000),
           ("us-west", 150, 1_250_000), ("asia-south", 250, 250_000)]
NODES_PER_REGION = 2
TOKENS = 150
STREAM_TOKENS = 200
# Requests a second: of each region, and of the first while it asks for more.
RATE, RATE_MORE = 0.8, 4.0
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL("libc.so.6", use_errno=True)


def sh(*words):
    subprocess.run(words, check=True)


class Host:
    """A namespace whose packets this program carries."""

    def __init__(self, name, number, delay_ms, rate):
        self.space, self.address = f"ol-{name}", f"10.77.{number}.2"
        self.delay, self.rate, self.free = delay_ms / 2_000, rate, 0.0
        sh("ip", "netns", "add", self.space)
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/var/run/netns/{self.space}", os.O_RDONLY)
        assert LIBC.setns(there, CLONE_NEWNET) == 0
        self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.tun, 0x400454CA, struct.pack("16sH", b"path", 0x0001 | 0x1000))
        assert LIBC.setns(home, CLONE_NEWNET) == 0
        os.close(home), os.close(there)
        for words in (["link", "set", "lo", "up"], ["addr", "add", f"{self.address}/24", "dev", "path"],
                      ["link", "set", "path", "mtu", "1400", "up"], ["route", "add", "default", "dev", "path"]):
            sh("ip", "-n", self.space, *words)

    def command(self, *words):
        return ["ip", "netns", "exec", self.space, *words]


class Path(threading.Thread):
    """Carries packets: each waits for its host's uplink, then half of the round trip, or is lost."""

    def __init__(self, hosts, loss):
        super().__init__(daemon=True)
        self.hosts, self.loss, self.random = hosts, loss, random.Random(1)
        self.by_address = {bytes(map(int, host.address.split("."))): host for host in hosts}
        self.carried = self.lost = 0
        self.over = False

    def run(self):
        due, count = [], 0
        by_fd = {host.tun: host for host in self.hosts}
        while not self.over:
            wait = max(0.0, due[0][0] - time.monotonic()) if due else 0.1
            for fd in select.select(list(by_fd), [], [], min(wait, 0.1))[0]:
                source = by_fd[fd]
                try:
                    packet = os.read(fd, 65_536)
                except BlockingIOError:
                    continue
                target = self.by_address.get(packet[16:20])
                if target is None or packet[0] >> 4 != 4:
                    continue
                now = time.monotonic()
                source.free = max(source.free, now) + len(packet) / source.rate
                self.carried += 1
                if self.random.random() < self.loss:
                    self.lost += 1
                    continue
                count += 1
                delay = source.delay + target.delay
                at = source.free + delay * (1 + 0.02 * self.random.random())
                heapq.heappush(due, (at, count, target, packet))
            now = time.monotonic()
            while due and due[0][0] <= now:
                _, _, target, packet = heapq.heappop(due)
                try:
                    os.write(target.tun, packet)
                except OSError:
                    self.lost += 1


class Client:
    """Asks a gateway from within its own namespace, through a connection of each thread's own."""

    def __init__(self, host, port, key):
        self.host, self.port, self.key, self.local = host, port, key, threading.local()

    def post(self, body):
        if not hasattr(self.local, "connection"):
            there = os.open(f"/var/run/netns/{self.host.space}", os.O_RDONLY)
            assert LIBC.setns(there, CLONE_NEWNET) == 0
            os.close(there)
            self.local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        self.local.connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        return self.local.connection.getresponse()

    def ask(self, region, seed):
        body = {"model": "tiny", "max_tokens": TOKENS, "seed": seed, "messages": [{"role": "user", "content": "Where are you?"}],
                "openledger": {"prefer_region": region}}
        began = time.monotonic()
        answer = self.post(body)
        document = json.loads(answer.read())
        took = time.monotonic() - began
        there = document["openledger"]["region"] if answer.status == 200 else None
        return region, there, took

    def gaps(self, region, seed):
        body = {"model": "tiny", "max_tokens": STREAM_TOKENS, "seed": seed, "stream": True,
                "messages": [{"role": "user", "content": "Tell me all."}], "openledger": {"region": region}}
        answer, last, gaps = self.post(body), None, []
        for line in answer:
            if line.startswith(b"data: {"):
                now = time.monotonic()
                gaps.extend([now - last] if last else [])
                last = now
        return gaps


def percentile(values, share):
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1_000) if ordered else None


def started(process, label):
    for line in process.stdout:
        if line.startswith(label):
            return line[len(label):].strip()
    raise SystemExit(f"a process ended before it said {label!r}")


def measure(client, seconds):
    jobs, seed, began = [], 0, time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        rng = random.Random(7)
        next_at = {name: began + rng.expovariate(RATE) for name, _, _ in REGIONS}
        while (now := time.monotonic()) < began + seconds:
            third = int((now - began) * 3 / seconds)
            for number, (name, _, _) in enumerate(REGIONS):
                rate = RATE_MORE if number == 0 and third == 1 else RATE
                if now >= next_at[name]:
                    seed += 1
                    jobs.append((third, pool.submit(client.ask, name, seed)))
                    next_at[name] = now + rng.expovariate(rate)
            time.sleep(0.005)
        answers = [(third, *job.result()) for third, job in jobs]
    rows = []
    for third, when in enumerate(("before", "while", "after")):
        of_third = [answer for answer in answers if answer[0] == third]
        for name, _, _ in REGIONS:
            mine = [answer for answer in of_third if answer[1] == name]
            good = [answer for answer in mine if answer[2]]
            rows.append({
                "when": when, "region": name, "asked": len(mine), "answered": len(good),
                "p50_ms": percentile([a[3] for a in good], 0.5), "p99_ms": percentile([a[3] for a in good], 0.99),
                "spilled_pct": round(100 * sum(a[2] != name for a in good) / max(1, len(good)), 1),
                "answered_here": sum(a[2] == name for a in of_third),
            })
    return rows


def blocking(client, region, streams):
    """Gaps between the pieces of streams that share a node's link."""
    with concurrent.futures.ThreadPoolExecutor(streams) as pool:
        jobs = [pool.submit(client.gaps, region, 1_000 + number) for number in range(streams)]
        gaps = [gap for job in jobs for gap in job.result()]
    return {"region": region, "streams": streams, "gaps": len(gaps), "p50_ms": percentile(gaps, 0.5),
            "p99_ms": percentile(gaps, 0.99), "p999_ms": percentile(gaps, 0.999)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--loss", type=float, default=0.01)
    parser.add_argument("--seconds", type=float, default=90)
    args = parser.parse_args()
    program, processes, hosts, path = os.path.abspath(args.program), [], [], None
    with tempfile.TemporaryDirectory() as folder:
        try:
            gateway_host = Host("gateway", 0, 0, 125_000_000)
            hosts = [gateway_host] + [Host(name, 1 + at, rtt, rate) for at, (name, rtt, rate) in enumerate(REGIONS)]
            path = Path(hosts, args.loss)
            path.start()

            def run(host, *words):
                process = subprocess.Popen(host.command(program, *words), stdout=subprocess.PIPE,
                                           stderr=open(f"{folder}/log-{len(processes)}", "w"), text=True)
                processes.append(process)
                return process

            gateway = run(gateway_host, "gateway", "--data-dir", f"{folder}/gateway", "--listen", "127.0.0.1:0",
                          "--node-listen", f"{gateway_host.address}:0", "--requests-per-minute", "1000000",
                          "--tokens-per-minute", "100000000", "--prompt-price", "1", "--output-price", "1")
            port = int(started(gateway, "API ").rsplit(":", 1)[1].split("/")[0])
            key, ticket = started(gateway, "API key"), started(gateway, "ticket")
            for host, (name, _, _) in zip(hosts[1:], REGIONS):
                for number in range(NODES_PER_REGION):
                    node = run(host, "node", "--join", ticket, "--data-dir", f"{folder}/{name}-{number}", "--model", "tiny",
                               "--embedding-model", "tiny", "--slots", "2", "--threads", "1", "--region", name)
                    started(node, "node")
            client = Client(gateway_host, port, key)
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                deadline = time.monotonic() + 60
                while any(pool.submit(client.ask, name, 1).result()[1] is None for name, _, _ in REGIONS):
                    if time.monotonic() > deadline:
                        raise SystemExit("the nodes did not join in a minute")
            rows = measure(client, args.seconds)
            streams = [blocking(client, REGIONS[0][0], 4), blocking(client, REGIONS[-1][0], 4)]
            print(json.dumps({"loss": args.loss, "packets": path.carried, "packets_lost": path.lost, "rows": rows, "streams": streams}))
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
            if path:
                path.over = True
                path.join()
            for host in hosts:
                os.close(host.tun)
                sh("ip", "netns", "del", host.space)


if __name__ == "__main__":
    main()
