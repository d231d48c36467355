#include "parallel.hpp"

#include <algorithm>
#include <exception>
#include <mutex>

#include "../common/fp_mode.hpp"
#include "thread_pool.hpp"

namespace fpes {

void parallel(int threads, std::int64_t count, const std::function<void(WorkQueue&)>& worker) {
    WorkQueue queue(count);
    std::exception_ptr failure;
    std::mutex failure_mutex;
    auto run = [&] {
        try {
            const FpMode ieee(false);  // a new thread inherits its parent's mode
            worker(queue);
        } catch (...) {
            queue.drain();
            const std::lock_guard<std::mutex> lock(failure_mutex);
            if (!failure) failure = std::current_exception();
        }
    };
    const std::int64_t helpers = std::max<std::int64_t>(0, std::min<std::int64_t>(threads, count) - 1);
    Interruption* interruption = Interruption::current();
    auto wait = [&] {
        if (interruption) interruption->look();
    };
    ThreadPool::of_this_process().run(static_cast<std::size_t>(helpers), run, wait);
    if (failure) std::rethrow_exception(failure);
}

void parallel_ranges(int threads, std::int64_t count, std::int64_t grain,
                     const std::function<void(std::int64_t, std::int64_t)>& body) {
    const std::int64_t parts = (count + grain - 1) / grain;
    parallel(threads, parts, [&](WorkQueue& queue) {
        for (std::int64_t part; queue.take(part);) body(part * grain, std::min(count, (part + 1) * grain));
    });
}

}  // namespace fpes
