"""Makes the references that tests/golden.rs compares with, by engines that share no code with ours.

Needs the models (OPENLEDGER_MODELS) and: pip install xllamacpp gguf tokenizers onnx onnxruntime safetensors numpy
Writes tokens.json, llama.json and minilm.json into this folder.
"""

import json
import os
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy

HERE = Path(__file__).parent
MODELS = Path(os.environ["OPENLEDGER_MODELS"])
LLAMA = MODELS / "smollm2-135m-instruct-q4_1.gguf"
MINILM = MODELS / "all-minilm-l6-v2"

TEXTS = [
    "Hello world", " leading space", "trailing space ", "two  spaces", "   three before", "tab\tbetween", "\ttab first",
    "line\nbreak", "two\n\nbreaks", "three\n\n\nbreaks and  spaces\n", "windows\r\nline", "\r", " ", "  ", "\n", "\n \n",
    "0", "7", "12", "123", "1234567890", "3.14159", "1,000,000", "2024-02-29", "10:45:59", "+49 170 1234567",
    "v1.2.3-rc4", "0xDEADBEEF", "½ ² ³ Ⅻ ٣ ४", "a1b2c3", "It's we'll they've I'd can't", "IT'S", "don’t “quote” — dash…",
    "Zürich, Straße, naïve café", "Ελληνικά", "Русский текст", "עברית", "العربية", "中文字符测试", "日本語のテキスト",
    "한국어 문장", "ไทย", "हिन्दी", "emoji 😀👍🏽👩‍👩‍👧‍👦 🇩🇪", "e\u0301 combining", "zero\u200bwidth\u00a0nbsp\u3000ideographic",
    "\ufeffbom", "fn main() { println!(\"{}\", 1 + 2); }", "def f(x):\n    return x ** 2\n\n\nprint(f(3))\n",
    "if (a != b && c >= d) { e->f++; } // note", "SELECT * FROM t WHERE id = 42;", "<html lang=\"en\">&nbsp;</html>",
    "{\"key\": [1, 2.5, null, true]}", "https://example.org/a?b=c&d=e#f", "user@example.org", "C:\\path\\to\\file.txt",
    "$x^2 + y_1 = \\frac{1}{2}$", "CamelCaseAndsnake_case_and-kebab", "UPPER lower MiXeD", "!!!???...,,,;;;", "a" * 40,
    "antidisestablishmentarianism", "The quick brown fox jumps over the lazy dog.", "l'été à l'hôtel, qu'il aime",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|endoftext|>", "text <|im_end|> inside", "<|im_sta",
    "🏴\u200d☠️ \U0001d54f\U0001d550", "mixed 中文 and English 混合 text 123",
]

SENTENCES = [
    "The cat sits on the mat.", "A feline rests on a rug.", "Quarterly revenue rose by 12.5 percent.", "x",
    "Zürich ist eine Stadt in der Schweiz, 中文 and 😀.",
    "A much longer text, " + "which repeats itself again and again, " * 12 + "until it ends.",
]

PROMPTS = [
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "Once upon a time, in a village by the sea, there lived",
    "def fibonacci(n):\n    \"\"\"Returns the n-th Fibonacci number.\"\"\"\n",
]
STEPS = 24
TOP = 20


class Server:
    """llama.cpp's server in this process, with f32 caches and without flash attention."""

    def __init__(self, path, port):
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.port = 1024, 1, port
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.verbosity = -1
        self.server = xllamacpp.Server(params)

    def post(self, path, body):
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.server.listening_address + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tokens(self, text):
        return self.post("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]

    def step(self, ids):
        body = {"prompt": ids, "n_predict": 1, "n_probs": TOP, "temperature": 0, "cache_prompt": False}
        found = self.post("/completion", body)["completion_probabilities"][0]["top_logprobs"]
        return [[entry["id"], round(entry["logprob"], 6)] for entry in found]


def widened(folder):
    """The same model with all weights as f32."""
    import gguf

    reader, path = gguf.GGUFReader(LLAMA), Path(folder) / "f32.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kinds = field.types
            writer.add_key_value(key, field.contents(), kinds[0], kinds[1] if len(kinds) > 1 else None)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        writer.add_tensor(tensor.name, values.reshape([int(size) for size in reversed(tensor.shape)]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def follow(server, ids):
    steps = []
    for _ in range(STEPS):
        steps.append(server.step(ids))
        ids = ids + [steps[-1][0][0]]
    return steps


def llama():
    with tempfile.TemporaryDirectory() as folder:
        wide, own = Server(widened(folder), 18331), Server(LLAMA, 18332)
        tokens = [[text, wide.tokens(text)] for text in TEXTS]
        cases = []
        for prompt in PROMPTS:
            ids = wide.tokens(prompt)
            steps = follow(wide, ids)
            path = [step[0][0] for step in steps]
            quantised = [own.step(ids + path[:at]) for at in range(STEPS)]
            cases.append({"prompt": ids, "path": path, "f32": steps, "q4_1": quantised})
    (HERE / "llama.json").write_text(json.dumps(cases) + "\n")
    return tokens


def minilm_graph():
    """The encoder as an ONNX graph of standard operators, for one text."""
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import load_file

    weights, nodes, constants = load_file(MINILM / "model.safetensors"), [], {}
    config = json.loads((MINILM / "config.json").read_text())
    heads, count = config["num_attention_heads"], [0]
    width = config["hidden_size"] // heads

    def constant(name, value):
        constants[name] = numpy_helper.from_array(numpy.ascontiguousarray(value), name)
        return name

    def node(kind, inputs, **attributes):
        count[0] += 1
        name = f"n{count[0]}"
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def linear(x, name):
        weight = constant(name + ".w", weights[name + ".weight"].T)
        return node("Add", [node("MatMul", [x, weight]), constant(name + ".b", weights[name + ".bias"])])

    def norm(x, name):
        parts = [constant(f"{name}.{part}", weights[f"{name}.LayerNorm.{part}"]) for part in ("weight", "bias")]
        return node("LayerNormalization", [x, *parts], axis=-1, epsilon=config["layer_norm_eps"])

    def split(x, order):
        shape = constant("split", numpy.array([0, heads, width], dtype=numpy.int64))
        return node("Transpose", [node("Reshape", [x, shape])], perm=order)

    words = node("Gather", [constant("words", weights["embeddings.word_embeddings.weight"]), "ids"])
    places = node("Gather", [constant("places", weights["embeddings.position_embeddings.weight"]), "positions"])
    segment = constant("segment", weights["embeddings.token_type_embeddings.weight"][0])
    x = norm(node("Add", [node("Add", [words, segment]), places]), "embeddings")
    scale = constant("scale", numpy.float32(width**-0.5))
    joined = constant("joined", numpy.array([0, heads * width], dtype=numpy.int64))
    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{index}."
        q, k, v = (linear(x, f"{layer}attention.self.{part}") for part in ("query", "key", "value"))
        scores = node("MatMul", [split(q, [1, 0, 2]), split(k, [1, 2, 0])])
        shares = node("Softmax", [node("Mul", [scores, scale])], axis=-1)
        mixed = node("Transpose", [node("MatMul", [shares, split(v, [1, 0, 2])])], perm=[1, 0, 2])
        x = norm(node("Add", [linear(node("Reshape", [mixed, joined]), f"{layer}attention.output.dense"), x]),
                 f"{layer}attention.output")
        inner = node("Gelu", [linear(x, f"{layer}intermediate.dense")], approximate="none")
        x = norm(node("Add", [linear(inner, f"{layer}output.dense"), x]), f"{layer}output")
    mean = node("ReduceMean", [x, constant("axis", numpy.array([0], dtype=numpy.int64))], keepdims=0)
    nodes.append(helper.make_node("LpNormalization", [mean], ["vector"], axis=-1, p=2))
    whole = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n"]) for name in ("ids", "positions")]
    vector = helper.make_tensor_value_info("vector", TensorProto.FLOAT, [heads * width])
    graph = helper.make_graph(nodes, "minilm", whole, [vector], list(constants.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def minilm():
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    session = onnxruntime.InferenceSession(minilm_graph().SerializeToString(), providers=["CPUExecutionProvider"])
    vectors = []
    for text in SENTENCES:
        ids = tokenizer.encode(text).ids
        feed = {"ids": numpy.array(ids, dtype=numpy.int64), "positions": numpy.arange(len(ids), dtype=numpy.int64)}
        found = session.run(["vector"], feed)[0]
        vectors.append({"text": text, "vector": [round(float(value), 7) for value in found]})
    (HERE / "minilm.json").write_text(json.dumps(vectors) + "\n")
    return [[text, tokenizer.encode(text).ids] for text in TEXTS]


def main():
    tokens = {"minilm": minilm(), "smollm2": llama()}
    (HERE / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=True, indent=0) + "\n")


if __name__ == "__main__":
    sys.exit(main())
