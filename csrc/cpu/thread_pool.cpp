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

// The interval at which a thread that waits for others calls while_waiting().
constexpr std::chrono::milliseconds waiting{50};

std::atomic<ThreadPool*> current{nullptr};

// How long a thread that has nothing to do asks for work, or for the others' end, before it sleeps. To wake a thread
// takes some 50 us on a virtual machine, half of a product of 64 rows; Python needs less between one call and the next.
constexpr std::chrono::microseconds spinning{300};

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

// Waits for a condition, but no longer than `spinning`, and calls look_around() now and then. Threads that have work to
// do go first.
template <class Condition, class LookAround>
void spin_until(const Condition& holds, const LookAround& look_around) {
    const auto end = std::chrono::steady_clock::now() + spinning;
    do {
        look_around();
        for (int look = 0; look < 64; ++look) {
            if (holds()) return;
            relax();
        }
        std::this_thread::yield();
    } while (std::chrono::steady_clock::now() < end);
}

// A child has none of its parent's threads, and the parent's mutex in whatever state it was.
void forget_pool() { current.store(new ThreadPool); }

// Where a thread is, and where it may be.
#if defined(__linux__)
struct Place {
    pthread_t thread;
    cpu_set_t allowed = {};
    std::atomic<int> here{-1};
    void look() { here.store(sched_getcpu(), std::memory_order_relaxed); }
};
#else
struct Place {
    pthread_t thread;
    void look() {}
};
#endif

// Where threads may run, by their affinities.
//
// Some schedulers wake a thread on the processor of the thread that wakes it, although another is idle, and leave both
// there: measured, calls of 10 ms took 20. So a helper is woken with an affinity for all processors but its caller's,
// and takes back all of them when it runs. Both take 10 us; a helper that is awake, on another processor, is left where
// it is.
class Processors {
   public:
#if defined(__linux__)
    Processors() : known_(sched_getaffinity(0, sizeof all_, &all_) == 0), here_(sched_getcpu()) {}
    // Failure leaves a thread where it may be already, as where there is no other processor.
    void send_elsewhere(Place& place, bool asleep) const {
        if (!known_ || (!asleep && place.here.load(std::memory_order_relaxed) != here_)) return;
        cpu_set_t others = all_;
        if (here_ >= 0 && here_ < CPU_SETSIZE) CPU_CLR(here_, &others);
        if (CPU_COUNT(&others) == 0) return;
        pthread_setaffinity_np(place.thread, sizeof others, &others);
        place.allowed = others;
    }
    // Called by the thread itself.
    void allow_all(Place& place) const {
        if (!known_ || CPU_EQUAL(&place.allowed, &all_)) return;
        sched_setaffinity(0, sizeof all_, &all_);
        place.allowed = all_;
    }
    bool are_more_than(std::size_t count) const { return known_ && static_cast<std::size_t>(CPU_COUNT(&all_)) > count; }

   private:
    cpu_set_t all_;
    bool known_;
    int here_;
#else
    void send_elsewhere(Place&, bool) const {}
    void allow_all(Place&) const {}
    bool are_more_than(std::size_t) const { return false; }
#endif
};

}  // namespace

// One call of run().
struct ThreadPool::Job {
    const std::function<void()>* body = nullptr;
    Worker* called = nullptr;  // a list
    std::atomic<std::size_t> unfinished{0};
    Processors processors;
    bool spins = false;  // there is a processor for each of its threads
};

// A thread, and the job that it will start. Workers form linked lists through `next`: idle workers, and workers that a
// job has called. So moving a worker between lists needs no memory and can't fail.
struct ThreadPool::Worker {
    std::condition_variable wake;
    bool asleep = true;
    std::atomic<Job*> job{nullptr};  // written with the pool's mutex held
    Worker* next = nullptr;
    Place place;
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
    job.spins = job.processors.are_more_than(helpers);
    std::unique_lock<std::mutex> lock(mutex_);
    for (Worker* worker; helpers > 0 && (worker = idle_worker()) != nullptr; --helpers) {
        worker->job = &job;
        worker->next = std::exchange(job.called, worker);
        ++job.unfinished;
        job.processors.send_elsewhere(worker->place, worker->asleep);
        if (worker->asleep) worker->wake.notify_one();
    }
    lock.unlock();
    body();
    lock.lock();
    // Helpers that have not started are no longer needed.
    for (Worker* worker = job.called; worker; worker = worker->next) {
        if (worker->job == &job) {
            worker->job = nullptr;
            --job.unfinished;
        }
    }
    if (job.spins && job.unfinished > 0) {
        lock.unlock();
        spin_until([&] { return job.unfinished == 0; }, [] {});
        lock.lock();
    }
    while (!done_.wait_for(lock, waiting, [&] { return job.unfinished == 0; })) {
        lock.unlock();
        while_waiting();
        lock.lock();
    }
    while (job.called) put_back(std::exchange(job.called, job.called->next));
}

// A thread without a job, or null if the system refuses a new thread.
ThreadPool::Worker* ThreadPool::idle_worker() {
    if (idle_) return std::exchange(idle_, idle_->next);
    try {
        auto worker = std::make_unique<Worker>();
        std::thread thread([this, worker = worker.get()] { serve(*worker); });
        worker->place.thread = thread.native_handle();
        thread.detach();
        return worker.release();
    } catch (const std::exception&) {  // no thread, or no memory for one
        return nullptr;
    }
}

void ThreadPool::put_back(Worker* worker) { worker->next = std::exchange(idle_, worker); }

void ThreadPool::serve(Worker& worker) {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto called = [&] { return worker.job != nullptr; };
    for (bool spins = false;;) {
        if (spins && !called()) {
            lock.unlock();
            spin_until(called, [&] { worker.place.look(); });
            lock.lock();
        }
        worker.asleep = true;
        worker.wake.wait(lock, called);
        worker.asleep = false;
        Job& job = *worker.job.exchange(nullptr);
        lock.unlock();
        job.processors.allow_all(worker.place);
        (*job.body)();
        lock.lock();
        spins = job.spins;
        if (--job.unfinished == 0) done_.notify_all();
    }
}

}  // namespace fpes
