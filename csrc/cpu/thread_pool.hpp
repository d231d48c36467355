// Threads that wait for work. They start at the first need and are kept. A new thread often starts on its parent's
// processor and moves only milliseconds later, which is as long as a short call.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>

namespace fpes {

class ThreadPool {
   public:
    // The pool of this process. A forked child has its own. The pool is never destroyed, because its threads may
    // outlive any owner. They sleep when the process ends.
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
