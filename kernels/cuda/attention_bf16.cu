// Attention with bfloat16 queries; the cache is bfloat16 or FP8 e4m3. See attention.cuh.
#include "attention_run.cuh"

ATTENTION_KERNELS(__nv_bfloat16, bf16)
