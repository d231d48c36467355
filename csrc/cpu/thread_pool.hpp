// Threads that wait for work. They are started when they are first needed and kept: a new thread often begins on its
// parent's processor and is moved milliseconds later, which is as long as a short call takes.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>

namespace fpes {

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
        const std::function<void()>* body;
        std::size_t unfinished;
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
