// Work shared by threads (thread_pool.hpp), item by item.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "interruption.hpp"

namespace fpes {

// Hands out 0, 1, ..., count - 1, each once, to any thread that asks.
class WorkQueue {
   public:
    explicit WorkQueue(std::int64_t count) : count_(count), interruption_(Interruption::current()) {}
    // The next item, or false when none is left. Throws Interrupted.
    bool take(std::int64_t& item) {
        if (interruption_) interruption_->check();
        item = next_.fetch_add(1, std::memory_order_relaxed);
        return item < count_;
    }
    // Removes all remaining items, so that other threads stop at their next item.
    void drain() { next_.store(count_, std::memory_order_relaxed); }

   private:
    std::int64_t count_;
    Interruption* interruption_;
    std::atomic<std::int64_t> next_{0};
};

// Runs worker(queue) on up to `threads` threads, the caller's among them, over `count` items. A worker takes items
// until none is left. The first exception of a worker stops the others early. It is thrown here when all have ended.
void parallel(int threads, std::int64_t count, const std::function<void(WorkQueue&)>& worker);

// One contiguous part of 0 ... count for each item: the simple case of parallel().
void parallel_ranges(int threads, std::int64_t count, std::int64_t grain,
                     const std::function<void(std::int64_t begin, std::int64_t end)>& body);

}  // namespace fpes
