#include "thread_pool.hpp"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <system_error>
#include <thread>

namespace fpes {
namespace {

std::atomic<ThreadPool*> current{nullptr};

// A child has none of its parent's threads, and the parent's mutex in whatever state it was.
void forget_pool() { current.store(new ThreadPool); }

// Where threads may run, by their affinities.
//
// Some schedulers wake a thread on the processor of the thread that wakes it, although another is idle, and leave both
// there: measured, calls of 10 ms took 20. So a helper is woken with an affinity for all processors but its caller's,
// and takes back all of them when it runs.
class Processors {
   public:
#if defined(__linux__)
    Processors() : known_(sched_getaffinity(0, sizeof all_, &all_) == 0), others_(all_) {
        const int here = sched_getcpu();
        if (here >= 0 && here < CPU_SETSIZE) CPU_CLR(here, &others_);
    }
    // Failure leaves a thread where it may be already, as where there is no other processor.
    void send_elsewhere(pthread_t thread) const {
        if (known_ && CPU_COUNT(&others_) > 0) pthread_setaffinity_np(thread, sizeof others_, &others_);
    }
    void allow_all() const {
        if (known_) sched_setaffinity(0, sizeof all_, &all_);
    }

   private:
    cpu_set_t all_;
    bool known_;
    cpu_set_t others_;
#else
    void send_elsewhere(pthread_t) const {}
    void allow_all() const {}
#endif
};

}  // namespace

// One call of run().
struct ThreadPool::Job {
    const std::function<void()>* body = nullptr;
    std::size_t unfinished = 0;
    Processors processors;
};

// A thread, and the job that it is to begin.
struct ThreadPool::Worker {
    std::condition_variable wake;
    Job* job = nullptr;
    pthread_t thread;
};

ThreadPool& ThreadPool::of_this_process() {
    static std::once_flag once;
    std::call_once(once, [] {
        forget_pool();
        pthread_atfork(nullptr, nullptr, forget_pool);
    });
    return *current.load();
}

void ThreadPool::run(std::size_t helpers, const std::function<void()>& body) {
    if (helpers == 0) return body();
    Job job;
    job.body = &body;
    std::vector<Worker*> called;
    std::unique_lock<std::mutex> lock(mutex_);
    while (called.size() < helpers) {
        Worker* worker = worker_for(job);
        if (!worker) break;
        called.push_back(worker);
        ++job.unfinished;
        job.processors.send_elsewhere(worker->thread);
        worker->wake.notify_one();
    }
    lock.unlock();
    body();
    lock.lock();
    // Helpers that have not begun are not needed any more.
    for (Worker* worker : called) {
        if (worker->job != &job) continue;
        worker->job = nullptr;
        idle_.push_back(worker);
        --job.unfinished;
    }
    done_.wait(lock, [&] { return job.unfinished == 0; });
}

// A thread that will begin the job, or null where the system gives no more threads.
ThreadPool::Worker* ThreadPool::worker_for(Job& job) {
    if (idle_.empty()) {
        auto* worker = new Worker;
        try {
            std::thread thread([this, worker] { serve(*worker); });
            worker->thread = thread.native_handle();
            thread.detach();
        } catch (const std::system_error&) {
            delete worker;
            return nullptr;
        }
        idle_.push_back(worker);
    }
    Worker* worker = idle_.back();
    idle_.pop_back();
    worker->job = &job;
    return worker;
}

void ThreadPool::serve(Worker& worker) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        worker.wake.wait(lock, [&] { return worker.job != nullptr; });
        Job& job = *worker.job;
        worker.job = nullptr;
        lock.unlock();
        job.processors.allow_all();
        (*job.body)();
        lock.lock();
        idle_.push_back(&worker);
        if (--job.unfinished == 0) done_.notify_all();
    }
}

}  // namespace fpes
