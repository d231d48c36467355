#include "thread_pool.hpp"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <thread>
#include <utility>

namespace fpes {
namespace {

// How often a thread that waits for others looks for something else to do.
constexpr std::chrono::milliseconds waiting{50};

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
    Worker* called = nullptr;  // a list
    std::size_t unfinished = 0;
    Processors processors;
};

// A thread, and the job that it is to begin. Workers are in lists through `next`, so that nothing here can fail for
// want of memory, half-way between one list and another: those that are idle, or those that a job has called.
struct ThreadPool::Worker {
    std::condition_variable wake;
    Job* job = nullptr;
    Worker* next = nullptr;
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

void ThreadPool::run(std::size_t helpers, const std::function<void()>& body,
                     const std::function<void()>& while_waiting) {
    if (helpers == 0) return body();
    Job job;
    job.body = &body;
    std::unique_lock<std::mutex> lock(mutex_);
    for (Worker* worker; helpers > 0 && (worker = idle_worker()) != nullptr; --helpers) {
        worker->job = &job;
        worker->next = std::exchange(job.called, worker);
        ++job.unfinished;
        job.processors.send_elsewhere(worker->thread);
        worker->wake.notify_one();
    }
    lock.unlock();
    body();
    lock.lock();
    // Helpers that have not begun are not needed any more.
    for (Worker* worker = job.called; worker; worker = worker->next) {
        if (worker->job == &job) {
            worker->job = nullptr;
            --job.unfinished;
        }
    }
    while (!done_.wait_for(lock, waiting, [&] { return job.unfinished == 0; })) {
        lock.unlock();
        while_waiting();
        lock.lock();
    }
    while (job.called) put_back(std::exchange(job.called, job.called->next));
}

// A thread without a job, or null where the system gives no more.
ThreadPool::Worker* ThreadPool::idle_worker() {
    if (idle_) return std::exchange(idle_, idle_->next);
    try {
        auto worker = std::make_unique<Worker>();
        std::thread thread([this, worker = worker.get()] { serve(*worker); });
        worker->thread = thread.native_handle();
        thread.detach();
        return worker.release();
    } catch (const std::exception&) {  // no thread, or no memory for one
        return nullptr;
    }
}

void ThreadPool::put_back(Worker* worker) { worker->next = std::exchange(idle_, worker); }

void ThreadPool::serve(Worker& worker) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        worker.wake.wait(lock, [&] { return worker.job != nullptr; });
        Job& job = *std::exchange(worker.job, nullptr);
        lock.unlock();
        job.processors.allow_all();
        (*job.body)();
        lock.lock();
        if (--job.unfinished == 0) done_.notify_all();
    }
}

}  // namespace fpes
