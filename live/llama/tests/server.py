"""Starts llama.cpp's server on a free port, prints its address, and ends when standard input does.

`server.py MODEL SLOTS exact` takes f32 caches and no flash attention, `server.py MODEL SLOTS default` what llama-server takes.
Needs: pip install xllamacpp
"""

import os
import sys

import xllamacpp

model, slots, numerics = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path = model
params.n_parallel, params.n_ctx, params.port = int(slots), 2048 * int(slots), 0
# Threads of the server spin while they wait for each other, which takes a busy machine's time from all.
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
if numerics == "exact":
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.verbosity = -1
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
# The server's own threads would make an orderly end wait.
os._exit(0)
