#include "buffer.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fpes {
namespace {

constexpr std::size_t line = 64;
constexpr std::size_t large_page = std::size_t{2} << 20;

std::size_t alignment_of(std::size_t bytes) { return bytes < large_page ? line : large_page; }

std::size_t rounded(std::size_t bytes) {
    const std::size_t alignment = alignment_of(bytes);
    return (bytes + alignment) / alignment * alignment;
}

void* allocate(std::size_t bytes) {
    const std::size_t alignment = alignment_of(bytes), size = rounded(bytes);
    void* block = std::aligned_alloc(alignment, size);
    if (!block) throw std::bad_alloc();
#if defined(__linux__)
    if (alignment == large_page) madvise(block, size, MADV_HUGEPAGE);  // a page fault per 2 MB, not per 4 KB
#endif
    return block;
}

// The blocks that a thread has freed, oldest first.
class BlockCache {
   public:
    ~BlockCache() { clear(); }

    void* take(std::size_t bytes) {
        for (std::size_t i = count_; i-- > 0;) {
            if (blocks_[i].size != rounded(bytes)) continue;
            void* block = blocks_[i].start;
            remove(i);
            return block;
        }
        try {
            return allocate(bytes);
        } catch (const std::bad_alloc&) {
            clear();
            return allocate(bytes);
        }
    }

    void give(void* block, std::size_t bytes) {
        const std::size_t size = rounded(bytes);
        if (size > most_bytes) {
            std::free(block);
            return;
        }
        while (count_ == blocks_.size() || bytes_ + size > most_bytes) drop_oldest();
        blocks_[count_++] = {block, size};
        bytes_ += size;
    }

   private:
    // Enough for the gradient of a network of half a million weights. Helpers need, and so keep, only a few MB.
    static constexpr std::size_t most_bytes = std::size_t{32} << 20;

    struct Block {
        void* start;
        std::size_t size;
    };

    void remove(std::size_t i) {
        bytes_ -= blocks_[i].size;
        std::move(blocks_.begin() + i + 1, blocks_.begin() + count_, blocks_.begin() + i);
        --count_;
    }
    void clear() {
        while (count_ > 0) drop_oldest();
    }
    void drop_oldest() {
        std::free(blocks_[0].start);
        remove(0);
    }

    std::array<Block, 64> blocks_;
    std::size_t count_ = 0;
    std::size_t bytes_ = 0;
};

thread_local BlockCache cache;

}  // namespace

#if defined(__SANITIZE_ADDRESS__)
// Blocks have exactly the requested size and aren't used again, so that AddressSanitizer sees the end of each.
void* take_block(std::size_t bytes) {
    void* block = nullptr;
    if (posix_memalign(&block, line, bytes) != 0) throw std::bad_alloc();
    return block;
}
void give_block(void* block, std::size_t) noexcept { std::free(block); }
#else
void* take_block(std::size_t bytes) { return cache.take(bytes); }
void give_block(void* block, std::size_t bytes) noexcept { cache.give(block, bytes); }
#endif

}  // namespace fpes
