"""A second implementation of docs/protocol/sampling.md, in plain Python; checks the committed vectors.

Run: python3 core/protocol/tests/sampler_reference.py
"""

import math
import struct
from pathlib import Path

VECTORS = Path(__file__).parent / "vectors"
MASK = 0xFFFFFFFF
TOLERANCE = 0.05


def philox(key, counter):
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & MASK, (a >> 32) ^ c3 ^ k1, a & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


class Noise:
    def __init__(self, seed, t):
        s = struct.unpack("<8I", seed)
        a, b, c, d = philox(s[0:2], s[2:6])
        self.key, self.tail, self.t = (a ^ s[6], b ^ s[7]), (c, d), t

    def word(self, v):
        return philox(self.key, (v // 4, self.t) + self.tail)[v % 4]

    def gumbel(self, v):
        return -math.log(-math.log((self.word(v) + 0.5) / 2**32))


def f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def from_bits(text):
    return struct.unpack("<f", struct.pack("<I", int(text, 16)))[0]


class Case:
    def __init__(self, logits, settings, seed, t):
        self.l, self.seed, self.t = logits, seed, t
        self.temperature, self.top_p, self.top_k, self.min_p = settings
        self.rank = sorted(range(len(logits)), key=lambda v: (-logits[v], v))
        self.top = logits[self.rank[0]]
        self.k = min(self.top_k or len(logits), len(logits))
        if self.temperature == 0:
            return
        self.noise = Noise(seed, t)
        self.total = sum(self.mass(v) for v in sorted(self.rank[: self.k]))
        self.p = self.k
        if self.top_p < 1:
            before, self.p = 0.0, 0
            for v in self.rank[: self.k]:
                if before >= self.top_p * self.total:
                    break
                before += self.mass(v)
                self.p += 1
            self.p = max(self.p, 1)
        self.count = self.p
        self.floor = -math.inf
        if self.min_p > 0:
            self.floor = f32(self.top + self.temperature * math.log(self.min_p))
            kept = 0
            while kept < self.p and self.l[self.rank[kept]] >= self.floor:
                kept += 1
            self.count = max(kept, 1)

    def mass(self, v):
        return f32(math.exp(f32(f32(self.l[v] - self.top) / self.temperature)))

    def score(self, v):
        return self.l[v] + self.temperature * self.noise.gumbel(v)

    def pick(self):
        if self.temperature == 0:
            return self.rank[0]
        return min(self.rank[: self.count], key=lambda v: (-self.score(v), v))

    def beyond(self, cumulative):
        def odds(share):
            share = min(max(share, 1e-12), 1 - 1e-12)
            return math.log(share / (1 - share))

        return odds(cumulative / self.total) - odds(self.top_p)

    def before(self, v):
        return sum(self.mass(u) for u in self.rank[: self.rank.index(v)])

    def logit_at(self, index):
        return self.l[self.rank[index]] if index < len(self.rank) else -math.inf

    def is_certain(self, index):
        v = self.rank[index]
        inside = self.l[v] - self.floor
        if self.k < len(self.l):
            inside = min(inside, self.l[v] - self.logit_at(self.k))
        if self.top_p < 1:
            inside = min(inside, self.l[v] - self.logit_at(self.p))
            if index > 0:
                inside = min(inside, -self.beyond(self.before(v)))
        return inside > TOLERANCE

    def outside(self, v):
        index = self.rank.index(v)
        if index < self.count:
            return 0.0
        distance = max(self.floor - self.l[v], 0.0)
        if index >= self.k:
            distance = max(distance, self.logit_at(self.k - 1) - self.l[v])
        if self.top_p < 1 and index >= self.p:
            near = min(self.beyond(min(self.before(v), self.total)), self.logit_at(self.p - 1) - self.l[v])
            distance = max(distance, near)
        return distance

    def margin(self, v):
        if self.temperature == 0:
            return self.top - self.l[v]
        certain = []
        for index in range(self.count):
            if not self.is_certain(index):
                break
            certain.append(self.rank[index])
        best = max((self.score(u) for u in certain), default=-math.inf)
        lost, outside = max(best - self.score(v), 0.0), self.outside(v)
        return max(lost, outside) if outside > TOLERANCE else lost


def check_prf():
    lines = (VECTORS / "prf.hex").read_text().split("\n")[:-1]
    for line in lines:
        seed, t, v, word, gumbel = line.split()
        noise = Noise(bytes.fromhex(seed), int(t, 16))
        assert noise.word(int(v, 16)) == int(word, 16), line
        expected = struct.unpack("<d", struct.pack("<Q", int(gumbel, 16)))[0]
        assert abs(noise.gumbel(int(v, 16)) - expected) <= 1e-14 * max(1, abs(expected)), line
    return len(lines)


def check_sampler():
    lines = (VECTORS / "sampler.hex").read_text().split("\n")[:-1]
    for line in lines:
        case, vocabulary, settings, t, chosen, other, margin, log_prob, byte = line.split()
        number, vocabulary, t = int(case, 16), int(vocabulary, 16), int(t, 16)
        noise = Noise(b"\xa5" * 32, number)
        words = [noise.word(v) >> 16 for v in range(vocabulary)]
        logits = [(word - 65536 if word >= 32768 else word) / 4096 for word in words]
        temperature, top_p, top_k, min_p = struct.unpack("<ffIf", bytes.fromhex(settings))
        found = Case(logits, (temperature, top_p, top_k, min_p), bytes([number]) * 32, t)
        assert found.pick() == int(chosen, 16), line
        expected = from_bits(margin)
        assert abs(found.margin(int(other, 16)) - expected) < 1e-4 * max(1, abs(expected)), line
        own = logits[int(chosen, 16)] - math.log(math.fsum(math.exp(logit) for logit in logits))
        assert abs(own - from_bits(log_prob)) < 1e-5, line
        assert math.floor(255 * math.sqrt(min(max(-own, 0), 16) / 16) + 0.5) == int(byte, 16), line
    return len(lines)


if __name__ == "__main__":
    print(f"{check_prf()} vectors of the noise and {check_sampler()} of the sampler hold")
