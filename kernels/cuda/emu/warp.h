// Warp intrinsics of CUDA: every lane of the mask brings its operand, the last one computes all results.
#pragma once
#include "block.h"

namespace emu {

// A lane's part in an operation that takes an `In` and gives an `Out`.
template <class In, class Out>
struct LaneCall : WarpCall {
    In in;
    Out out;
};

// `run` sees the calls of all lanes, null where a lane has ended or is not in the mask.
template <class In, class Out>
inline Out collective(const char* what, uint32_t mask, const In& in, void (*run)(WarpCall* const*, uint32_t)) {
    LaneCall<In, Out> call;
    call.what = what;
    call.mask = mask;
    call.run = run;
    call.in = in;
    memset(&call.out, kPoison, sizeof call.out);
    join_warp(call);
    return call.out;
}

template <class T>
struct ShuffleIn {
    T value;
    int source;
};

// The value of the source lane; of a lane that is not there, poison.
template <class T>
void run_shuffle(WarpCall* const* lanes, uint32_t) {
    using Call = LaneCall<ShuffleIn<T>, T>;
    for (int lane = 0; lane < 32; ++lane) {
        if (!lanes[lane]) continue;
        Call* call = static_cast<Call*>(lanes[lane]);
        if (const WarpCall* source = lanes[call->in.source]) call->out = static_cast<const Call*>(source)->in.value;
    }
}

template <class T>
inline T shuffle(const char* what, uint32_t mask, T value, int source) {
    return collective<ShuffleIn<T>, T>(what, mask, {value, source}, run_shuffle<T>);
}

inline void run_ballot(WarpCall* const* lanes, uint32_t) {
    using Call = LaneCall<int, uint32_t>;
    uint32_t votes = 0;
    for (int lane = 0; lane < 32; ++lane) {
        if (lanes[lane] && static_cast<Call*>(lanes[lane])->in) votes |= 1u << lane;
    }
    for (int lane = 0; lane < 32; ++lane) {
        if (lanes[lane]) static_cast<Call*>(lanes[lane])->out = votes;
    }
}

inline void run_nothing(WarpCall* const*, uint32_t) {}

inline uint32_t alive(uint32_t mask) { return mask & ~machine.warps[current->linear / 32].ended; }

}  // namespace emu

inline void __syncthreads() { emu::barrier(); }
inline void __syncwarp(uint32_t mask = 0xffffffffu) {
    emu::collective<int, int>("__syncwarp", mask, 0, emu::run_nothing);
}

template <class T>
inline T __shfl_sync(uint32_t mask, T value, int source, int width = 32) {
    const int lane = static_cast<int>(emu::lane_index());
    return emu::shuffle("__shfl_sync", mask, value, (lane & ~(width - 1)) | (source & (width - 1)));
}
template <class T>
inline T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32) {
    const int lane = static_cast<int>(emu::lane_index()), source = lane ^ bits;
    const bool inside = source <= (lane | (width - 1)) && source >= 0;
    return emu::shuffle("__shfl_xor_sync", mask, value, inside ? source : lane);
}
template <class T>
inline T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
    const int lane = static_cast<int>(emu::lane_index()), source = lane - static_cast<int>(delta);
    return emu::shuffle("__shfl_up_sync", mask, value, source >= (lane & ~(width - 1)) ? source : lane);
}
template <class T>
inline T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
    const int lane = static_cast<int>(emu::lane_index()), source = lane + static_cast<int>(delta);
    return emu::shuffle("__shfl_down_sync", mask, value, source <= (lane | (width - 1)) ? source : lane);
}

inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
    return emu::collective<int, uint32_t>("__ballot_sync", mask, predicate, emu::run_ballot);
}
inline int __any_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(uint32_t mask, int predicate) {
    const uint32_t votes = __ballot_sync(mask, predicate);
    return (votes & emu::alive(mask)) == emu::alive(mask);
}
// Lanes that may run together: without a mask hardware promises nothing, so each lane stands alone.
inline uint32_t __activemask() { return 1u << emu::lane_index(); }
