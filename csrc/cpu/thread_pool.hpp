// Threads that wait for work. They are started when they are first needed and kept: a new thread often begins on its
// parent's processor and is moved milliseconds later, which is as long as a short call takes.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>

namespace fpes {

class ThreadPool {
   public:
    // The pool of this process: a forked child has one of its own. It is never destroyed, for its threads may outlast
    // whatever would destroy it; at the end of the process they are asleep.
    static ThreadPool& of_this_process();

    // Runs body() on up to `helpers` threads of the pool and on this one, and returns when all have ended. If the
    // system gives fewer threads, fewer run. body must not throw, nor while_waiting(), which this thread calls some
    // times a second while it has nothing else to do.
    void run(std::size_t helpers, const std::function<void()>& body, const std::function<void()>& while_waiting);

   private:
    struct Job;
    struct Worker;

    Worker* idle_worker();
    void put_back(Worker* worker);
    void serve(Worker& worker);

    std::mutex mutex_;
    std::condition_variable done_;
    Worker* idle_ = nullptr;  // a list
};

}  // namespace fpes
