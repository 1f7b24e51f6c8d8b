// Activations of gates in f32: what src/activation.rs computes, with the card's fast exponential.
#pragma once
#include "common.cuh"

// The numbers of src/gpu/activation.rs.
enum Activation { kSilu = 0, kGeluTanh = 1, kGelu = 2 };

// x * sigmoid(u). Where e^-u overflows the quotient is 0, as it should be.
__device__ __forceinline__ float times_sigmoid(float x, float u) { return __fdividef(x, 1.0f + __expf(-u)); }

template <Activation kActivation>
__device__ __forceinline__ float activate(float x) {
    if (kActivation == kSilu) return times_sigmoid(x, x);
    if (kActivation == kGeluTanh) {
        // (1 + tanh u) / 2 is sigmoid(2 u), which does not cancel; 1.5957691 is 2 sqrt(2 / pi).
        return times_sigmoid(x, 1.5957691f * fmaf(x * x * x, 0.044715f, x));
    }
    return 0.5f * x * (1.0f + erff(x * 0.70710678f));
}
