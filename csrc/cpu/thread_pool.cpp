#include "thread_pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>

namespace fpes {
namespace {

std::atomic<ThreadPool*> current{nullptr};

// A child has none of its parent's threads, and the parent's mutex in whatever state it was.
void forget_pool() { current.store(new ThreadPool); }

}  // namespace

ThreadPool& ThreadPool::of_this_process() {
    static std::once_flag once;
    std::call_once(once, [] {
        forget_pool();
        pthread_atfork(nullptr, nullptr, forget_pool);
    });
    return *current.load();
}

void ThreadPool::run(std::size_t helpers, const std::function<void()>& body) {
    Job job{&body, helpers};
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        waiting_.insert(waiting_.end(), helpers, &job);
        start_threads();
    }
    work_.notify_all();
    body();
    std::unique_lock<std::mutex> lock(mutex_);
    // Helpers that have not begun are not needed any more.
    const auto mine = std::remove(waiting_.begin(), waiting_.end(), &job);
    job.unfinished -= static_cast<std::size_t>(waiting_.end() - mine);
    waiting_.erase(mine, waiting_.end());
    done_.wait(lock, [&] { return job.unfinished == 0; });
}

// As many as there is work for.
void ThreadPool::start_threads() {
    while (threads_ < busy_ + waiting_.size()) {
        try {
            std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {
            return;  // the system gives no more threads: those that there are do the work
        }
        ++threads_;
    }
}

void ThreadPool::serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        work_.wait(lock, [this] { return !waiting_.empty(); });
        Job* job = waiting_.front();
        waiting_.pop_front();
        ++busy_;
        lock.unlock();
        (*job->body)();
        lock.lock();
        --busy_;
        if (--job->unfinished == 0) done_.notify_all();
    }
}

}  // namespace fpes
