// Images deformed by a grid of control points: augmentation of training data.
#pragma once

#include <cstdint>

namespace fpes {

// Grey images, [count, height, width] row-major.
struct Images {
    const float* data;
    int height;
    int width;
};

// For each image [rows, columns, 2] displacements (down, right) in pixels, at control points that are spread evenly
// over the image, the outermost ones on its outermost pixels. Between the points they are interpolated bilinearly. So
// every linear map of the plane is exact, and the grid limits the detail of other deformations.
struct Displacements {
    const float* data;
    int rows;  // 2 or more, as are the columns
    int columns;
};

// out[n](y, x) = images[chosen[n]] at (y, x) + displacement, interpolated bilinearly; 0 outside of the image.
void warp(int threads, Images images, const std::int64_t* chosen, std::int64_t count, Displacements displacements,
          float* out);

}  // namespace fpes
