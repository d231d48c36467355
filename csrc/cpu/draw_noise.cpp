// Draws noise, for study and for initial weights.
#include "parallel.hpp"
#include "population.hpp"

namespace fpes {

void draw_noise(const Kernels& kernels, int threads, const NoiseStream& stream, std::uint64_t first, std::int64_t count,
                float* out) {
    constexpr std::int64_t grain = 1 << 14;
    parallel_ranges(threads, count, grain, [&](std::int64_t begin, std::int64_t end) {
        Buffer<float> scratch(noise_scratch_size(grain));
        kernels.noise(stream, first + begin, static_cast<int>(end - begin), out + begin, scratch.data());
    });
}

}  // namespace fpes
