#include "block.h"

#include "async.h"

#include <sanitizer/asan_interface.h>

#include <cstring>

namespace emu {

Machine machine;
Thread* current = nullptr;

namespace {

// SplitMix64: the order of threads where the launch asks for a shuffled one.
uint64_t next_random() {
    uint64_t z = machine.random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void make_ready(const Thread& thread) { machine.warps[thread.linear / 32].ready |= 1u << (thread.linear & 31); }

void make_all_ready() {
    Machine& m = machine;
    for (Thread& thread : m.threads) {
        thread.state = State::kReady;
        make_ready(thread);
    }
    if (m.random == 0) return;
    for (size_t i = m.warp_order.size(); i > 1; --i) std::swap(m.warp_order[i - 1], m.warp_order[next_random() % i]);
    for (Warp& warp : m.warps) warp.first_lane = next_random() % 32;
}

// Takes a ready lane of a warp; null when it has none.
Thread* take(unsigned index) {
    Warp& warp = machine.warps[index];
    if (warp.ready == 0) return nullptr;
    const uint32_t later = warp.ready & ~0u << warp.first_lane;
    const unsigned lane = static_cast<unsigned>(__builtin_ctz(later ? later : warp.ready));
    warp.ready &= ~(1u << lane);
    return &machine.threads[index * 32 + lane];
}

// Does one thing that hardware does beside the threads; false when there is none.
bool run_late() {
    auto& late = machine.late;
    if (late.empty()) return false;
    std::swap(late[machine.random ? next_random() % late.size() : 0], late.back());
    const auto run = std::move(late.back());
    late.pop_back();
    run();
    return true;
}

// A thread that can run, of the same warp while that has one; null when none can.
Thread* pick_ready() {
    Machine& m = machine;
    if (m.at_barrier == m.threads.size()) {
        m.at_barrier = 0;
        make_all_ready();
    } else if (current) {
        if (Thread* next = take(current->linear / 32)) return next;
    }
    for (unsigned index : m.warp_order) {
        if (Thread* next = take(index)) return next;
    }
    return nullptr;
}

// The next thread to run; null when none can, whatever hardware does.
Thread* pick() {
    Thread* next = pick_ready();
    while (!next && run_late()) next = pick_ready();
    return next;
}

// Runs others until this thread is ready again.
void park() {
    Thread* self = current;
    Thread* next = pick();
    if (next == self) return;
    if (next) current = next;
    switch_fiber(self->fiber, next ? next->fiber : machine.main);
}

// Runs the call that the lanes of `mask` wait in, if they are all there.
bool complete(Warp& warp, unsigned first_thread, uint32_t mask) {
    const uint32_t alive = mask & ~warp.ended;
    if (alive == 0 || alive & ~warp.arrived) return false;
    const WarpCall* first = warp.waiting[__builtin_ctz(alive)];
    WarpCall* lanes[32] = {};
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (!(alive >> lane & 1)) continue;
        WarpCall* call = lanes[lane] = warp.waiting[lane];
        if (call->mask != mask || call->run != first->run) return false;
    }
    first->run(lanes, mask);
    warp.arrived &= ~alive;
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (!lanes[lane]) continue;
        warp.waiting[lane] = nullptr;
        Thread& thread = machine.threads[first_thread + lane];
        if (thread.state != State::kWarp) continue;  // the lane that came last runs on
        thread.state = State::kReady;
        make_ready(thread);
    }
    return true;
}

void run_copies(const std::vector<Copy>& copies) {
    for (const Copy& copy : copies) {
        if (copy.from) {
            memcpy(copy.to, copy.from, copy.bytes);
        } else {
            memset(copy.to, 0, copy.bytes);
        }
    }
}

// What a thread does: the kernel, then the end that its warp and block hear of.
void thread_main() {
    Machine& m = machine;
    m.entry(m.params);
    Thread& self = *current;
    self.state = State::kDone;
    ++m.done;
    Warp& warp = m.warps[self.linear / 32];
    warp.ended |= 1u << (self.linear & 31);
    for (WarpCall* call : warp.waiting) {
        if (call && complete(warp, self.linear & ~31u, call->mask)) break;
    }
    park();
}

std::string at(uint3 index) {
    return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

std::string hex(uint32_t mask) {
    char text[16];
    snprintf(text, sizeof text, "0x%08x", mask);
    return text;
}

// Who waits for what, when nobody can go on.
std::string deadlock() {
    Machine& m = machine;
    std::string text = "deadlock: of " + std::to_string(m.threads.size()) + " threads " + std::to_string(m.at_barrier) +
                       " wait in __syncthreads, " + std::to_string(m.done) + " have ended";
    unsigned named = 0;
    for (const Thread& thread : m.threads) {
        const WarpCall* call = m.warps[thread.linear / 32].waiting[thread.linear & 31];
        const bool waits = call || thread.state == State::kEvent;
        if (!waits || ++named > 4) continue;
        text += "; thread " + at(thread.index) + " waits in ";
        text += call ? call->what + (" with mask " + hex(call->mask)) : std::string(thread.event_call);
    }
    if (named > 4) text += "; " + std::to_string(named - 4) + " more wait in other operations";
    return text;
}

void start_threads() {
    Machine& m = machine;
    const unsigned count = m.block_dim.x * m.block_dim.y * m.block_dim.z;
    m.threads.resize(count);
    m.warps.assign((count + 31) / 32, Warp{});
    m.warp_order.resize(m.warps.size());
    for (unsigned i = 0; i < m.warp_order.size(); ++i) m.warp_order[i] = i;
    // Lanes that a partial last warp lacks count as ended.
    if (count % 32) m.warps.back().ended = ~0u << (count % 32);
    for (unsigned i = 0; i < count; ++i) {
        Thread& thread = m.threads[i];
        thread.linear = i;
        thread.index = {i % m.block_dim.x, i / m.block_dim.x % m.block_dim.y, i / (m.block_dim.x * m.block_dim.y)};
        thread.groups.assign(1, {});
        prepare(thread.fiber, fiber_stack(i, count), thread_main);
    }
    make_all_ready();
}

}  // namespace

bool run_block() {
    Machine& m = machine;
    ++m.block_serial;
    m.at_barrier = m.done = 0;
    m.waited_for_previous = false;
    m.error.clear();
    m.shared_ranges.assign(1, {m.shared, m.shared_bytes});
    m.late.clear();
    memset(m.shared, kPoison, m.shared_bytes);
    start_threads();
    begin_async();
    current = nullptr;
    current = pick();
    switch_fiber(m.main, current->fiber);
    if (m.error.empty() && m.done != m.threads.size()) m.error = deadlock();
    // Copies that nobody waited for: hardware performs them too, so their addresses must be good.
    for (const Thread& thread : m.threads) {
        for (size_t i = 0; m.error.empty() && i < thread.groups.size(); ++i) run_copies(thread.groups[i]);
    }
    if (m.error.empty()) m.error = unfinished_async();
    if (m.error.empty() && !m.waited_for_previous) m.error = "ended without wait_for_previous()";
    if (m.error.empty()) return true;
    m.error = std::string("kernel ") + m.kernel + ", block " + at(m.block_index) + ": " + m.error;
    return false;
}

void barrier() {
    current->state = State::kBarrier;
    ++machine.at_barrier;
    park();
}

void join_warp(WarpCall& call) {
    Thread& self = *current;
    const unsigned lane = self.linear & 31;
    if (!(call.mask >> lane & 1)) fail(std::string(call.what) + ": lane " + std::to_string(lane) + " is not in its mask");
    Warp& warp = machine.warps[self.linear / 32];
    warp.waiting[lane] = &call;
    warp.arrived |= 1u << lane;
    if (complete(warp, self.linear & ~31u, call.mask)) return;
    self.state = State::kWarp;
    park();
}

void wait_for(const void* event, const char* call) {
    current->state = State::kEvent;
    current->event = event;
    current->event_call = call;
    park();
}

void wake(const void* event) {
    for (Thread& thread : machine.threads) {
        if (thread.state != State::kEvent || thread.event != event) continue;
        thread.state = State::kReady;
        make_ready(thread);
    }
}

void fail(const std::string& text) {
    machine.error = "thread " + at(current->index) + ": " + text;
    switch_fiber(current->fiber, machine.main);
}

void shared_array(void* array, size_t bytes, size_t end, uint64_t& seen_by) {
    if (seen_by == machine.block_serial) return;
    if (seen_by == 0) ASAN_POISON_MEMORY_REGION(static_cast<char*>(array) + bytes, end - bytes);
    seen_by = machine.block_serial;
    memset(array, kPoison, bytes);
    machine.shared_ranges.emplace_back(static_cast<const unsigned char*>(array), bytes);
}

bool is_shared(const void* address, size_t bytes) {
    const auto* first = static_cast<const unsigned char*>(address);
    for (const auto& range : machine.shared_ranges) {
        if (first >= range.first && first + bytes <= range.first + range.second) return true;
    }
    return false;
}

void copy_later(const Copy& copy) {
    if (reinterpret_cast<uintptr_t>(copy.to) % copy.bytes || reinterpret_cast<uintptr_t>(copy.from) % copy.bytes) {
        fail("cp.async of " + std::to_string(copy.bytes) + " bytes from or to an address that is no multiple of them");
    }
    if (!is_shared(copy.to, copy.bytes)) fail("cp.async to an address outside shared memory");
    memset(copy.to, kPoison, copy.bytes);
    current->groups.back().push_back(copy);
}

void commit_copies() { current->groups.emplace_back(); }

void wait_copies(unsigned pending) {
    auto& groups = current->groups;
    if (groups.size() <= pending + 1) return;
    const size_t finished = groups.size() - 1 - pending;
    for (size_t i = 0; i < finished; ++i) run_copies(groups[i]);
    groups.erase(groups.begin(), groups.begin() + static_cast<ptrdiff_t>(finished));
}

}  // namespace emu
