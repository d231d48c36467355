#include "interruption.hpp"

#include <ctime>

namespace fpes {
namespace {

constexpr std::int64_t interval = 50;  // milliseconds

// A clock that takes only nanoseconds to read, if there is one.
std::int64_t milliseconds() {
#if defined(CLOCK_MONOTONIC_COARSE)
    constexpr clockid_t clock = CLOCK_MONOTONIC_COARSE;
#else
    constexpr clockid_t clock = CLOCK_MONOTONIC;
#endif
    timespec now;
    clock_gettime(clock, &now);
    return static_cast<std::int64_t>(now.tv_sec) * 1000 + now.tv_nsec / 1000000;
}

thread_local Interruption* innermost = nullptr;

}  // namespace

Interruption::Interruption(bool (*asked)() noexcept)
    : caller_(pthread_self()), asked_(asked), outer_(innermost), next_(milliseconds() + interval) {
    innermost = this;
}

Interruption::~Interruption() { innermost = outer_; }

Interruption* Interruption::current() { return innermost; }

void Interruption::look() noexcept {
    if (!asked_ || stopped_.load(std::memory_order_relaxed)) return;
    const std::int64_t now = milliseconds();
    if (now < next_) return;
    next_ = now + interval;
    if (asked_()) stopped_.store(true, std::memory_order_relaxed);
}

}  // namespace fpes
