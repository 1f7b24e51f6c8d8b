#include "async.h"

#include <algorithm>
#include <map>

namespace emu {
namespace {

struct Mbarrier {
    uint32_t arrivals, pending, parity;
    int64_t bytes;
};

// What a thread has issued of products.
struct Product {
    float* d;
    std::vector<float> values;
    std::vector<std::pair<const uint32_t*, std::vector<uint32_t>>> a;
    std::vector<std::pair<Operand, uint64_t>> b;
    unsigned group;
};
struct Products {
    std::vector<Product> under_way;
    unsigned groups = 0;
    bool fenced = false, open = false;
};

struct NamedBarrier {
    uint32_t threads, arrived;
};

// Of the block that runs.
std::map<const void*, Mbarrier> mbarriers;
std::map<uint32_t, NamedBarrier> named_barriers;
std::vector<Products> products;
unsigned copies_under_way;

constexpr uint64_t kTensorMark = 0x74656e736f726d70;
// Where dynamic shared memory begins in the window.
constexpr uint32_t kWindowStart = 1024 + 128;

Mbarrier& find(const void* barrier) {
    const auto found = mbarriers.find(barrier);
    if (found == mbarriers.end()) fail("an mbarrier that nobody has initialised");
    return found->second;
}

void end_phase(void* key, Mbarrier& barrier) {
    if (barrier.pending != 0 || barrier.bytes != 0) return;
    barrier.parity ^= 1;
    barrier.pending = barrier.arrivals;
    wake(key);
}

// The swizzle of 128 bytes: the 16-byte chunk of a row of 128 bytes is xored with the row's number in its eight.
uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

unsigned char* from_window(uint32_t address) {
    if (address < kWindowStart || address + 2 > kWindowStart + machine.shared_bytes) fail("an operand outside shared memory");
    return machine.shared + (address - kWindowStart);
}

void run_copy(uint32_t to, const TensorRows& from, int first_column, int first_row, void* key) {
    for (uint64_t row = 0; row < from.box_rows; ++row) {
        for (uint64_t column = 0; column < from.box_columns; ++column) {
            const int64_t y = first_row + static_cast<int64_t>(row), x = first_column + static_cast<int64_t>(column);
            const bool inside = y >= 0 && y < static_cast<int64_t>(from.rows) && x >= 0 && x < static_cast<int64_t>(from.width);
            uint16_t value = 0;
            if (inside) value = reinterpret_cast<const uint16_t*>(from.address)[y * static_cast<int64_t>(from.width) + x];
            const uint32_t at = to + static_cast<uint32_t>(row * from.box_columns + column) * 2;
            memcpy(machine.shared + (swizzled(at) - kWindowStart), &value, 2);
        }
    }
    --copies_under_way;
    Mbarrier& barrier = mbarriers[key];
    barrier.bytes -= static_cast<int64_t>(from.box_rows * from.box_columns * 2);
    end_phase(key, barrier);
}

}  // namespace

void begin_async() {
    mbarriers.clear();
    named_barriers.clear();
    products.assign(machine.threads.size(), {});
    copies_under_way = 0;
}

std::string unfinished_async() {
    if (copies_under_way) return std::to_string(copies_under_way) + " tensor copies are under way at the end";
    for (const Products& thread : products) {
        if (!thread.under_way.empty() || thread.open) return "products are under way at the end";
    }
    return "";
}

void mbarrier_init(void* barrier, uint32_t arrivals) {
    if (reinterpret_cast<uintptr_t>(barrier) % 8 || !is_shared(barrier, 8)) fail("an mbarrier at a wrong address");
    if (!mbarriers.insert({barrier, {arrivals, arrivals, 0, 0}}).second) fail("an mbarrier is initialised twice");
}

void mbarrier_arrive(void* key, uint32_t bytes) {
    Mbarrier& barrier = find(key);
    if (barrier.pending == 0) fail("more arrivals at an mbarrier than its phase has");
    barrier.bytes += bytes;
    --barrier.pending;
    end_phase(key, barrier);
}

void mbarrier_wait(void* key, uint32_t parity) {
    while (find(key).parity == parity) wait_for(key, "mbarrier_wait");
}

void tensor_copy(void* shared, const TensorRows& from, int column, int row, void* barrier) {
    const uint32_t bytes = static_cast<uint32_t>(from.box_rows * from.box_columns * 2), to = shared_window(shared);
    if (from.mark != kTensorMark) fail("a tensor copy by something that is no tensor map");
    if (reinterpret_cast<uintptr_t>(&from) % 64) fail("a tensor map at an address that is no multiple of 64");
    if (from.box_columns != 64) fail("a box that is not as wide as its swizzle");
    if (to % 1024 || !is_shared(shared, bytes)) fail("a tensor copy to a wrong address");
    find(barrier);
    memset(shared, kPoison, bytes);
    ++copies_under_way;
    machine.late.push_back([=] { run_copy(to, from, column, row, barrier); });
}

void named_barrier(uint32_t number, uint32_t threads) {
    if (number > 15 || threads % 32) fail("a named barrier of a wrong number");
    NamedBarrier& barrier = named_barriers[number];
    if (barrier.arrived == 0) barrier.threads = threads;
    if (barrier.threads != threads) fail("a named barrier that threads disagree about");
    if (++barrier.arrived < threads) {
        wait_for(&barrier, "named_barrier");
        return;
    }
    barrier.arrived = 0;
    wake(&barrier);
}

uint32_t shared_window(const void* shared) {
    return static_cast<uint32_t>(static_cast<const unsigned char*>(shared) - machine.shared) + kWindowStart;
}

void Operand::check() const {
    if (descriptor >> 62 != 1) fail("wgmma: an operand without the swizzle of 128 bytes");
    // Atoms lie at multiples of their size; a k inside their rows of 128 bytes may move the start.
    if ((descriptor << 4 & 0x380) != 0 || (descriptor >> 49 & 7) != 0) fail("wgmma: an operand that begins inside an atom");
    if (columns % (transposed ? 64 : 8)) fail("wgmma: columns that are no whole atoms");
}

uint16_t Operand::at(int column, int k) const {
    const auto field = [&](int bit) { return static_cast<uint32_t>(descriptor >> bit & 0x3fff) << 4; };
    const uint32_t start = field(0), leading = field(16), stride = field(32);
    // Rows of 128 bytes: of k of one column, or of 64 columns of one k.
    const uint32_t at = transposed
                            ? start + column / 64 * leading + k / 8 * stride + k % 8 * 128 + column % 64 * 2
                            : start + column / 8 * stride + column % 8 * 128 + k * 2;
    uint16_t value;
    memcpy(&value, from_window(swizzled(at)), 2);
    return value;
}

uint64_t Operand::hash() const {
    uint64_t hash = 14695981039346656037u;
    for (int column = 0; column < columns; ++column) {
        for (int k = 0; k < 16; ++k) hash = (hash ^ at(column, k)) * 1099511628211u;
    }
    return hash;
}

void product_fence() { products[current->linear].fenced = true; }

const float* accumulators(const float* d) {
    for (const Product& product : products[current->linear].under_way) {
        if (product.d == d) return product.values.data();
    }
    return d;
}

void product_issued(float* d, const float* values, int count, const uint32_t* a, const Operand& b) {
    Products& mine = products[current->linear];
    if (!mine.fenced) fail("wgmma without a wgmma_fence in front of its group");
    mine.open = true;
    auto found = std::find_if(mine.under_way.begin(), mine.under_way.end(), [&](const Product& p) { return p.d == d; });
    if (found == mine.under_way.end()) found = mine.under_way.insert(found, Product{d, {}, {}, {}, 0});
    found->values.assign(values, values + count);
    found->a.push_back({a, std::vector<uint32_t>(a, a + 4)});
    // One lane looks after what the warp's products read.
    if (lane_index() == 0) found->b.push_back({b, b.hash()});
    found->group = mine.groups;
    memset(d, kPoison, static_cast<size_t>(count) * 4);
}

void product_commit() {
    Products& mine = products[current->linear];
    mine.fenced = mine.open = false;
    ++mine.groups;
}

void product_wait(unsigned pending) {
    Products& mine = products[current->linear];
    auto& list = mine.under_way;
    for (size_t i = 0; i < list.size();) {
        Product& product = list[i];
        if (product.group + pending >= mine.groups) {
            ++i;
            continue;
        }
        for (size_t j = 0; j < product.values.size(); ++j) {
            uint32_t bits;
            memcpy(&bits, product.d + j, 4);
            if (bits != ~0u) fail("an accumulator was written while its product was under way");
        }
        for (const auto& [at, values] : product.a) {
            if (memcmp(at, values.data(), 16)) fail("an A fragment changed while its product was under way");
        }
        for (const auto& [operand, hash] : product.b) {
            if (operand.hash() != hash) fail("shared memory changed while a product read it");
        }
        memcpy(product.d, product.values.data(), product.values.size() * 4);
        list.erase(list.begin() + static_cast<ptrdiff_t>(i));
    }
}

}  // namespace emu
