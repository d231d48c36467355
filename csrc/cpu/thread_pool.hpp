// Threads that wait for work. They are started when they are first needed and kept: a new thread often begins on its
// parent's processor and is moved milliseconds later, which is as long as a short call takes.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>

namespace fpes {

// Which processors the threads of one job run on: each takes one for itself.
//
// A scheduler may wake a thread on the processor of the thread that woke it, although another is idle, and then leave
// both there: measured, every call of 10 ms took 20. So a thread that finds its processor taken asks for another.
class Processors {
   public:
    // For the calling thread: the one it is on, or if that is taken a free one that it may use. It isn't bound to it.
    void take_one();

   private:
    static constexpr int most = 1024;
    bool take(int cpu);
    bool is_taken(int cpu) const { return (taken_[cpu / 64].load() >> cpu % 64 & 1) != 0; }
    std::atomic<std::uint64_t> taken_[most / 64] = {};
};

class ThreadPool {
   public:
    // The pool of this process: a forked child has one of its own. It is never destroyed, for its threads may outlast
    // whatever would destroy it; at the end of the process they are asleep.
    static ThreadPool& of_this_process();

    // Runs body() `helpers` times on threads of the pool and once on this one, and returns when all have ended. If the
    // system gives fewer threads, fewer run. body must not throw.
    void run(std::size_t helpers, const std::function<void()>& body);

   private:
    // One call of run().
    struct Job {
        const std::function<void()>* body = nullptr;
        std::size_t unfinished = 0;
        Processors processors;
    };

    void start_threads();
    void serve();

    std::mutex mutex_;
    std::condition_variable work_;
    std::condition_variable done_;
    std::deque<Job*> waiting_;  // a job stands here once for each helper that it still wants
    std::size_t threads_ = 0;
    std::size_t busy_ = 0;
};

}  // namespace fpes
