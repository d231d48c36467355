#include "thread_pool.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
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

void Processors::take_one() {
#if defined(__linux__)
    if (take(sched_getcpu())) return;
    cpu_set_t allowed, free;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    CPU_ZERO(&free);
    for (int cpu = 0; cpu < most; ++cpu) {
        if (CPU_ISSET(cpu, &allowed) && !is_taken(cpu)) CPU_SET(cpu, &free);
    }
    // Fails where none is free: then threads share.
    if (sched_setaffinity(0, sizeof free, &free) != 0) return;
    take(sched_getcpu());
    sched_setaffinity(0, sizeof allowed, &allowed);
#endif
}

bool Processors::take(int cpu) {
    if (cpu < 0 || cpu >= most) return true;  // nothing is known
    const std::uint64_t bit = std::uint64_t{1} << cpu % 64;
    return (taken_[cpu / 64].fetch_or(bit) & bit) == 0;
}

void ThreadPool::run(std::size_t helpers, const std::function<void()>& body) {
    Job job;
    job.body = &body;
    job.unfinished = helpers;
    job.processors.take_one();
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
        job->processors.take_one();
        (*job->body)();
        lock.lock();
        --busy_;
        if (--job->unfinished == 0) done_.notify_all();
    }
}

}  // namespace fpes
