// Calls that end early when their caller asks for it: Ctrl-C is heard within a second, whatever the sizes.
//
// The thread that made the call asks, some times a second, in between kernels; all threads stop at their next kernel or
// item of work. A call that is stopped throws Interrupted, and leaves its results half written.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <exception>

namespace fpes {

class Interrupted : public std::exception {
   public:
    const char* what() const noexcept override { return "interrupted"; }
};

// One call, for the length of a scope. Engines and queues of work that the thread makes meanwhile belong to it.
class Interruption {
   public:
    // asked: whether the call is to end; called by this thread only. Null where nobody can ask.
    explicit Interruption(bool (*asked)() noexcept);
    ~Interruption();
    Interruption(const Interruption&) = delete;
    Interruption& operator=(const Interruption&) = delete;

    // The call that this thread is in, or null.
    static Interruption* current();

    // Throws Interrupted where the call is to end. For any thread, often: before a kernel that is short, or has so many
    // multiply-adds. The calling thread reads the clock when they add up to something.
    void check(std::int64_t multiply_adds = 0) {
        if (stopped_.load(std::memory_order_relaxed)) throw Interrupted();
        if (!pthread_equal(pthread_self(), caller_)) return;
        unseen_ += multiply_adds + kernel;
        if (unseen_ < 16 * kernel) return;
        unseen_ = 0;
        look();
        if (stopped_.load(std::memory_order_relaxed)) throw Interrupted();
    }

    // Asks, if that is due. For the calling thread.
    void look() noexcept;

   private:
    static constexpr std::int64_t kernel = 1 << 20;  // multiply-adds that a short one counts for, at most

    bool (*asked_)() noexcept;
    pthread_t caller_;
    Interruption* outer_;      // a signal's handler may make a call of its own
    std::int64_t unseen_ = 0;  // multiply-adds since the clock was read
    std::int64_t next_;        // milliseconds of the clock
    std::atomic<bool> stopped_{false};
};

}  // namespace fpes
