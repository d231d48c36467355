#include "warp.hpp"

#include <algorithm>
#include <vector>

#include "parallel.hpp"

namespace fpes {
namespace {

constexpr std::int64_t images_at_a_time = 16;

// The position of each of `pixels` among `points` control points: its cell, and the fraction within the cell.
struct Axis {
    Axis(int pixels, int points) : cell(pixels), fraction(pixels) {
        for (int i = 0; i < pixels; ++i) {
            const float at =
                pixels > 1 ? static_cast<float>(std::int64_t{i} * (points - 1)) / static_cast<float>(pixels - 1) : 0.0f;
            cell[i] = std::min(static_cast<int>(at), points - 2);
            fraction[i] = at - static_cast<float>(cell[i]);
        }
    }
    std::vector<int> cell;
    std::vector<float> fraction;
};

float between(float a, float b, float fraction) { return a + (b - a) * fraction; }

// The work of one thread. An image is first copied into a frame of zeros, two pixels wide; coordinates are kept within
// it. So no pixel has to check its four neighbours, and the compiler can vectorise the loops below.
class Warper {
   public:
    Warper(Images images, Displacements displacements)
        : images_(images),
          displacements_(displacements),
          rows_(images.height, displacements.rows),
          columns_(images.width, displacements.columns),
          stride_(images.width + 2 * frame),
          framed_(static_cast<std::size_t>(images.height + 2 * frame) * stride_),
          down_(displacements.columns),
          right_(displacements.columns),
          y_(images.width),
          x_(images.width) {}

    void warp(const float* image, const float* displacement, float* out) {
        for (int y = 0; y < images_.height; ++y) {
            std::copy_n(image + static_cast<std::ptrdiff_t>(y) * images_.width, images_.width,
                        framed_.data() + static_cast<std::ptrdiff_t>(y + frame) * stride_ + frame);
        }
        for (int y = 0; y < images_.height; ++y) {
            locate_row(displacement, y);
            sample_row(out + static_cast<std::ptrdiff_t>(y) * images_.width);
        }
    }

   private:
    static constexpr int frame = 2;

    // Where in the frame the pixels of row y come from.
    void locate_row(const float* displacement, int y) {
        const float* above = displacement + static_cast<std::size_t>(rows_.cell[y]) * displacements_.columns * 2;
        const float* below = above + displacements_.columns * 2;
        for (int j = 0; j < displacements_.columns; ++j) {
            down_[j] = between(above[2 * j], below[2 * j], rows_.fraction[y]);
            right_[j] = between(above[2 * j + 1], below[2 * j + 1], rows_.fraction[y]);
        }
        const float lowest = static_cast<float>(images_.height + frame);
        const float rightmost = static_cast<float>(images_.width + frame);
        for (int x = 0; x < images_.width; ++x) {
            const int cell = columns_.cell[x];
            const float fraction = columns_.fraction[x];
            const float at_y = static_cast<float>(y + frame) + between(down_[cell], down_[cell + 1], fraction);
            const float at_x = static_cast<float>(x + frame) + between(right_[cell], right_[cell + 1], fraction);
            // In this order, NaN becomes 1.
            y_[x] = std::min(lowest, std::max(1.0f, at_y));
            x_[x] = std::min(rightmost, std::max(1.0f, at_x));
        }
    }

    void sample_row(float* out) const {
        for (int x = 0; x < images_.width; ++x) {
            const int top = static_cast<int>(y_[x]), left = static_cast<int>(x_[x]);
            const float down = y_[x] - static_cast<float>(top), right = x_[x] - static_cast<float>(left);
            const float* corner = framed_.data() + static_cast<std::ptrdiff_t>(top) * stride_ + left;
            const float upper = between(corner[0], corner[1], right);
            const float lower = between(corner[stride_], corner[stride_ + 1], right);
            out[x] = between(upper, lower, down);
        }
    }

    Images images_;
    Displacements displacements_;
    Axis rows_, columns_;
    int stride_;
    std::vector<float> framed_;
    std::vector<float> down_, right_;  // of a row, at the control points' columns
    std::vector<float> y_, x_;
};

}  // namespace

void warp(int threads, Images images, const std::int64_t* chosen, std::int64_t count, Displacements displacements,
          float* out) {
    const std::int64_t pixels = static_cast<std::int64_t>(images.height) * images.width;
    const std::int64_t points = static_cast<std::int64_t>(displacements.rows) * displacements.columns;
    parallel_ranges(threads, count, images_at_a_time, [&](std::int64_t begin, std::int64_t end) {
        Warper warper(images, displacements);
        for (std::int64_t n = begin; n < end; ++n) {
            warper.warp(images.data + chosen[n] * pixels, displacements.data + n * points * 2, out + n * pixels);
        }
    });
}

}  // namespace fpes
