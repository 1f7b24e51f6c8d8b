"""Makes tests/fixtures/dequant.safetensors: 2048 values of every weight type, as gguf-py dequantises them.

    ref/bin/python tests/reference/make_dequant.py        (setup: make_checkpoints.py)

Pin: gguf 0.19.0. Keys `TYPE.data` (U8, the bytes of 8 rows of 256) and `TYPE.values` (F32 [8, 256]), with TYPE as GGUF names it. The
blocks are random bytes in every field but the halves d, m and dmin, which are finite: normal, subnormal, negative and zero.
"""

import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from safetensors.numpy import save_file

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures"
# Offsets of the float16 fields within a block.
HALVES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
}


def halves(n, rng):
    """Mostly plausible scales; the first few are the awkward ones."""
    values = rng.uniform(-0.2, 0.2, n).astype(np.float16)
    awkward = np.array([0.0, -0.0, 6e-8, -3e-6, 6.1e-5, 1.0], np.float16)
    values[: min(n - 1, len(awkward))] = awkward[: min(n - 1, len(awkward))]
    return values


def main():
    rng = np.random.default_rng(3)
    out = {}
    plain = rng.standard_normal((8, 256)).astype(np.float32)
    plain[0, :4] = [0.0, -0.0, 6e-8, -60000.0]
    out["F32.data"], out["F32.values"] = plain.view(np.uint8).reshape(8, -1), plain
    f16 = plain.astype(np.float16)
    out["F16.data"], out["F16.values"] = f16.view(np.uint8).reshape(8, -1), f16.astype(np.float32)
    bf16 = gguf.quants.quantize(plain, T.BF16)
    out["BF16.data"], out["BF16.values"] = bf16.view(np.uint8).reshape(8, -1), gguf.quants.dequantize(bf16, T.BF16)
    for kind, offsets in HALVES.items():
        length, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (8 * 256 // length, size), dtype=np.uint8)
        for at in offsets:
            blocks[:, at : at + 2] = halves(len(blocks), rng)[:, None].view(np.uint8)
        out[f"{kind.name}.data"] = blocks.reshape(8, -1)
        out[f"{kind.name}.values"] = gguf.quants.dequantize(blocks.reshape(8, -1), kind).astype(np.float32)
        assert np.isfinite(out[f"{kind.name}.values"]).all()
    save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, FIXTURES / "dequant.safetensors")


if __name__ == "__main__":
    main()
