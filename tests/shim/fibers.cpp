// A block's threads as fibers.
//
// Each thread has a stack of its own and runs until it waits at a barrier or ends; then the next one runs. When all
// have, they must all be at the same barrier, or all have ended. So between two barriers a thread has done everything
// before the next one starts, which is as far apart as threads can drift: what needs a barrier and has none reads
// memory too early, or finds it overwritten, in ascending or in descending order of threads.
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include <sys/mman.h>

#include "../../csrc/common/fp_mode.hpp"
#include "shim/platform.hpp"

#if !defined(__x86_64__)
#error "the shim switches stacks and floating-point modes of x86-64 only"
#endif

// Saves the callee's registers on the running stack, notes where it ends in *from, and goes on with the stack `to`.
extern "C" void fpes_shim_switch(void** from, void* to);
asm(R"(
.text
.p2align 4
.globl fpes_shim_switch
.hidden fpes_shim_switch
fpes_shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

namespace fpes::shim {

Coordinates thread, block;
char* shared_memory = nullptr;

namespace {

constexpr int saved_registers = 6;

constexpr int most_threads = 1024;
constexpr std::size_t stack_bytes = 64 * 1024;
// Beyond the end of shared memory lies this much that nobody may touch. All of it starts as NaN.
constexpr int guard_bytes = 1024;
constexpr unsigned char poison = 0xff;

struct Copy {
    void* to;
    const void* from;
    std::size_t bytes;
    bool zeros;
};

struct Barrier {
    const char* file = nullptr;
    int line = 0;
    bool operator==(const Barrier& other) const { return line == other.line && file == other.file; }
};

struct Fiber {
    void* stack = nullptr;  // where it was left
    bool ended = false;
    Barrier barrier;
    std::vector<std::vector<Copy>> groups;  // committed copies, oldest first
    std::vector<Copy> open;                 // and those not yet committed
};

// The stacks of all fibers, mapped once: memory that nothing touches costs nothing. Below each is a page that ends a
// runaway one.
char* stacks() {
    static char* const memory = [] {
        constexpr std::size_t size = stack_bytes * most_threads;
        void* const mapped =
            mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) throw std::bad_alloc();
        for (int i = 0; i < most_threads; ++i) {
            mprotect(static_cast<char*>(mapped) + stack_bytes * i, 4096, PROT_NONE);
        }
        return static_cast<char*>(mapped);
    }();
    return memory;
}

class Block {
   public:
    Block(int threads, int shared_bytes, const std::function<void()>& body)
        : body_(body), fibers_(threads), shared_(static_cast<std::size_t>(shared_bytes) + guard_bytes + 16) {}
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    void run(int shared_bytes, bool reverse) {
        std::fill(shared_.begin(), shared_.end(), poison);
        shared_memory = shared_.data() + (16 - reinterpret_cast<std::uintptr_t>(shared_.data()) % 16) % 16;
        const int count = static_cast<int>(fibers_.size());
        for (int i = 0; i < count; ++i) start(i);
        for (bool running = true; running;) {
            for (int i = 0; i < count; ++i) resume(reverse ? count - 1 - i : i);
            if (failure_) std::rethrow_exception(failure_);
            running = !fibers_[0].ended;
            for (const Fiber& fiber : fibers_) check_same_place(fiber);
        }
        for (int i = 0; i < guard_bytes; ++i) {
            if (static_cast<unsigned char>(shared_memory[shared_bytes + i]) != poison) {
                throw std::logic_error("a kernel wrote beyond its shared memory, at byte " +
                                       std::to_string(shared_bytes + i) + " of " + std::to_string(shared_bytes));
            }
        }
    }

    Fiber& current() { return fibers_[current_]; }
    void leave() { fpes_shim_switch(&fibers_[current_].stack, scheduler_); }

    static Block* running;

   private:
    void start(int i) {
        // As if the entry had been called: its return address, which is never used, and the saved registers below.
        auto** top = reinterpret_cast<void**>(stacks() + stack_bytes * (i + 1)) - 2;
        top[0] = reinterpret_cast<void*>(&Block::entry);
        fibers_[i] = Fiber();
        fibers_[i].stack = top - saved_registers;
    }
    void resume(int i) {
        if (fibers_[i].ended) return;
        current_ = i;
        thread.x = i;
        fpes_shim_switch(&scheduler_, fibers_[i].stack);
    }
    static void entry() {
        Block& block = *running;
        try {
            block.body_();
        } catch (...) {
            block.failure_ = std::current_exception();
        }
        block.current().ended = true;
        block.leave();
    }
    void check_same_place(const Fiber& fiber) const {
        const Fiber& first = fibers_[0];
        if (fiber.ended == first.ended && (fiber.ended || fiber.barrier == first.barrier)) return;
        throw std::logic_error("diverged barrier: of the threads of a block, thread 0 " + place(first) +
                               " and thread " + std::to_string(&fiber - &first) + " " + place(fiber));
    }
    static std::string place(const Fiber& fiber) {
        if (fiber.ended) return "has ended";
        return "waits at " + std::string(fiber.barrier.file) + ":" + std::to_string(fiber.barrier.line);
    }

    const std::function<void()>& body_;
    std::vector<Fiber> fibers_;
    std::vector<char> shared_;
    void* scheduler_ = nullptr;
    int current_ = 0;
    std::exception_ptr failure_;
};

Block* Block::running = nullptr;

bool reverse_order = false;

}  // namespace

void set_reverse_order(bool reverse) { reverse_order = reverse; }

void run_grid(std::int64_t blocks_x, std::int64_t blocks_y, int threads, int shared_bytes, bool flush,
              const std::function<void()>& body) {
    if (blocks_x < 1 || blocks_y < 1 || blocks_x > 0x7fffffff || blocks_y > 65535 || threads < 1 ||
        threads > most_threads) {
        throw CudaError(9, "cudaErrorInvalidConfiguration",
                        "launching a kernel: " + std::to_string(blocks_x) + " x " + std::to_string(blocks_y) +
                            " blocks of " + std::to_string(threads) + " threads");
    }
    const FpMode mode(flush);
    Block place(threads, shared_bytes, body);
    Block::running = &place;
    const std::int64_t count = blocks_x * blocks_y;
    for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t number = reverse_order ? count - 1 - i : i;
        block = {static_cast<int>(number % blocks_x), static_cast<int>(number / blocks_x)};
        place.run(shared_bytes, reverse_order);
    }
}

void wait_at_barrier(const char* file, int line) {
    Block::running->current().barrier = {file, line};
    Block::running->leave();
}

void check_alignment(const void* address, std::size_t bytes, const char* what) {
    if (reinterpret_cast<std::uintptr_t>(address) % bytes == 0) return;
    throw std::logic_error(std::string(what) + " isn't aligned to " + std::to_string(bytes) + " bytes");
}

void start_copy(void* to, const void* from, std::size_t bytes, bool zeros) {
    check_alignment(to, bytes, "the target of an asynchronous copy");
    if (!zeros) check_alignment(from, bytes, "the source of an asynchronous copy");
    std::memset(to, poison, bytes);
    Block::running->current().open.push_back({to, from, bytes, zeros});
}

void commit_copies() {
    Fiber& fiber = Block::running->current();
    fiber.groups.push_back(std::move(fiber.open));
    fiber.open.clear();
}

void wait_for_copies(int groups) {
    Fiber& fiber = Block::running->current();
    while (static_cast<int>(fiber.groups.size()) > groups) {
        for (const Copy& copy : fiber.groups.front()) {
            if (copy.zeros) {
                std::memset(copy.to, 0, copy.bytes);
            } else {
                std::memcpy(copy.to, copy.from, copy.bytes);
            }
        }
        fiber.groups.erase(fiber.groups.begin());
    }
}

}  // namespace fpes::shim
