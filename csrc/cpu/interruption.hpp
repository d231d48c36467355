// Calls that end early on request: Ctrl-C takes effect within a second, for any sizes.
//
// The calling thread checks for a request several times a second, between kernels. All threads then stop at their next
// kernel or item of work. A stopped call throws Interrupted, and leaves its results incomplete.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>

namespace fpes {

class Interrupted : public std::exception {
   public:
    const char* what() const noexcept override { return "interrupted"; }
};

// One call, for the length of a scope. It owns the engines and work queues that the thread creates in this scope.
class Interruption {
   public:
    // asked: returns whether the call must end. Only this thread calls it. Null if no request is possible.
    explicit Interruption(bool (*asked)() noexcept);
    ~Interruption();
    Interruption(const Interruption&) = delete;
    Interruption& operator=(const Interruption&) = delete;

    // The present call of this thread, or null.
    static Interruption* current();

    // Throws Interrupted if the call must end. Every thread calls it before each kernel: a short one, or one with this
    // number of multiply-adds. The calling thread reads the clock when the sum of multiply-adds is large enough.
    void check(std::int64_t multiply_adds = 0) {
        if (stopped_.load(std::memory_order_relaxed)) throw Interrupted();
        if (!pthread_equal(pthread_self(), caller_)) return;
        unseen_ += multiply_adds + kernel;
        if (unseen_ < 16 * kernel) return;
        unseen_ = 0;
        look();
        if (stopped_.load(std::memory_order_relaxed)) throw Interrupted();
    }

    // Checks for a request, if a check is due. For the calling thread.
    void look() noexcept;

   private:
    static constexpr std::size_t cache_line = 64;
    static constexpr std::int64_t kernel = 1 << 20;  // multiply-adds that a short kernel counts as

    // All threads read these before each kernel.
    alignas(cache_line) std::atomic<bool> stopped_{false};
    pthread_t caller_;
    bool (*asked_)() noexcept;
    Interruption* outer_;  // the handler of a signal may make another call
    // The calling thread writes these before each kernel. On the same line they made populations of small networks a
    // third slower: the other threads then wait for the line.
    alignas(cache_line) std::int64_t unseen_ = 0;  // multiply-adds since the clock was read
    std::int64_t next_;                            // milliseconds of the clock
};

}  // namespace fpes
