// Attention with half-precision queries; the cache is half precision or FP8 e4m3. See attention.cuh.
#include "attention_run.cuh"

ATTENTION_KERNELS(__half, f16)
