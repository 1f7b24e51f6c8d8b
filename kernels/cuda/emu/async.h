// What Hopper does beside its threads, for the emulator: mbarriers, tensor copies into shared memory, products of a
// warpgroup. As late as the rules allow, and poison until then.
//
// This is our reading of the PTX ISA ("mbarrier", "cp.async.bulk.tensor", "wgmma"): kernels are checked against it, and
// it against nothing but a card.
#pragma once
#include "warp.h"

namespace emu {

#pragma GCC visibility push(default)

// Forgets everything of the block before.
void begin_async();
// What is wrong when a block ends: empty, or a text.
std::string unfinished_async();

// A barrier that threads arrive at and wait for, in phases.
void mbarrier_init(void* barrier, uint32_t arrivals);
// Arrives, after adding `bytes` to what the phase waits for.
void mbarrier_arrive(void* barrier, uint32_t bytes);
void mbarrier_wait(void* barrier, uint32_t parity);

// A row-major matrix of 16-bit numbers, as the tests' crate writes it into a tensor map.
struct TensorRows {
    uint64_t mark, address, width, rows, box_columns, box_rows;
};
// Issues a copy: the destination is poison until no thread of the block can go on without it.
void tensor_copy(void* shared, const TensorRows& from, int column, int row, void* barrier);

void named_barrier(uint32_t number, uint32_t threads);

// Address in the block's shared window. Dynamic memory begins at no round number, as behind static arrays on a card.
uint32_t shared_window(const void* shared);

// An operand of wgmma: a matrix of k = 16 rows in atoms of 8 x 128 bytes, swizzled by 128 bytes.
struct Operand {
    uint64_t descriptor;
    int columns;
    bool transposed;
    // The 16-bit number of a column and a k.
    uint16_t at(int column, int k) const;
    // Whether a descriptor is one that this file understands; fails otherwise.
    void check() const;
    uint64_t hash() const;
};

// A product is under way: `d` gets `values` once its group is waited for, and neither it nor `a` may change until then.
void product_issued(float* d, const float* values, int count, const uint32_t* a, const Operand& b);
// The accumulators that the product begins with: those of the product under way, else `d` itself.
const float* accumulators(const float* d);
void product_fence();
void product_commit();
void product_wait(unsigned pending);

#pragma GCC visibility pop

}  // namespace emu
