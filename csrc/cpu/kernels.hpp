// The kernels of one instruction set, as a table of functions.
//
// A kernel only reads and writes memory. It doesn't allocate, use threads or choose a mode. kernel_set.hpp defines the
// kernels once, isa/*.cpp compile them for each instruction set, and engine.hpp calls them in the right mode.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../common/losses/list.hpp"
#include "../common/noise.hpp"

namespace fpes {

// A matrix divided into vertical panels, each `width` columns wide and row-major. All matrices inside the engine have
// this layout. In the left operand of a product, rows have a constant distance; in the right operand, panels are read
// sequentially; in the result, tiles are contiguous.
//
//      columns 0 .. w-1    w .. 2w-1     2w ..
//     +---------------+ +-----------+ +-------+--+
//     | row 0         | | row 0     | | row 0 |//|     element (i, j) is at
//     | row 1         | | row 1     | | row 1 |//|     data[(j / w) * stride + i * w + j % w]
//     | ...           | | ...       | | ...   |//|
//     +---------------+ +-----------+ +-------+--+     the padding (//) is readable and has no meaning
struct Panels {
    float* data;
    std::size_t stride;  // floats from one panel to the next: rows allocated * width
};

// The change of one unit's activation.
struct Change {
    std::int32_t unit;
    float value;
};
// The changes of row i: list[begin[i]] ... list[begin[i + 1] - 1], units ascending.
struct RowChanges {
    const Change* list;
    const std::int32_t* begin;
};

// The elements of a [rows, k] matrix that are not zero. Its columns are cut into runs (Kernels::nonzero_run); the
// elements of a row in a run, from left to right, are begin[run * rows + row] ... begin[run * rows + row + 1] - 1.
struct Nonzeros {
    float* value;
    std::int32_t* row;  // of the right operand, counted from the start of the run
    std::int32_t* begin;
};

// The unperturbed network on a batch, as rows of the layout of pairs (unit_evaluate.cpp): a float for each sample of
// each member of a pair.
struct UnitBatch {
    const float* sums;     // of the last layer: [classes, width]
    const float* targets;  // [target_rows, width]: the label of each sample, or a value for each class
    int target_rows;
    int width;  // a multiple of the lanes
};
// Samples of any members, one in each lane, whose outputs and losses are computed together.
struct UnitLanes {
    float* sums;           // of the last layer, then its outputs: [classes, stride]
    float* targets;        // as in UnitBatch: [target_rows, stride]
    std::int32_t* places;  // where the losses belong
    int stride;            // at least capacity plus twice the lanes
    int capacity;
    int count;
};
// The change of one unit of a member on one sample, and the weights that lead on from that unit.
struct UnitRow {
    float change;
    const float* weights;
};

// The type of numbers in the lanes of a matrix of sums.
enum class SumType { float32, int32 };

// A row-major array without gaps as panels of a matrix of one row.
inline Panels flat(float* data, int width) { return {data, static_cast<std::size_t>(width)}; }

// One panel's columns and some k's of a right operand.
struct RightPart {
    float* panel;
    const float* rows;  // if not null, the panel's place in the array, a whole one's: it isn't packed yet, and will be
    std::int64_t step;  // floats from one of these rows to the next
    const float* next;  // the panel of the next call
};

// Arithmetic, in one mode.
struct ModeKernels {
    // c[m, n] = init + a[m, k] b[k, n]: one accumulator for each element, fused multiply-adds over k in order. Starts
    // at +0 if init.data is null. init may be c.
    void (*product)(Panels a, Panels b, Panels init, Panels c, int m, int n, int k);
    // The same with a transposed: a is [k, m].
    void (*product_transposed)(Panels a, Panels b, Panels init, Panels c, int m, int n, int k);
    // c[m, columns] = a b, or c + a b where it goes on: one panel's columns and some k's of a product. Rows of c are
    // `step` floats apart, and written to a multiple of `lanes` columns. a is packed, its panels a_stride floats apart.
    void (*product_part)(const float* a, std::size_t a_stride, RightPart b, bool goes_on, float* c, std::int64_t step,
                         int m, int columns, int k);
    // c = a[members * samples, k] b[k, n], where row member * samples + sample of a belongs to that member and sample.
    // b must be finite: terms that are zero in all members are left out. scratch: see skipping_scratch_size.
    void (*product_skipping)(Panels a, Panels b, Panels c, int samples, int members, int n, int k,
                             std::int32_t* scratch);
    // c[m, n] = init + a[m, k] b[k, n] from those elements of a that are not zero, beginning at a run. b must be
    // finite. As product() otherwise.
    void (*product_nonzeros)(Nonzeros terms, int first_run, Panels a, Panels b, Panels init, Panels c, int m, int n,
                             int k);
    // plus = fma(z, scale, in_plus), minus = fma(z, -scale, in_minus) for `n` columns of `rows` rows of a tensor of
    // noise. Its rows are `ld` elements long, and row 0 here starts at element `first`. scratch: see
    // noise_scratch_size.
    void (*perturb)(const NoiseStream& stream, std::uint64_t first, std::int64_t ld, float scale, int rows, int n,
                    Panels in_plus, Panels in_minus, Panels plus, Panels minus, float* scratch);
    // sum[i] = fma(weight, z[first + i], sum[i]).
    void (*accumulate_noise)(const NoiseStream& stream, std::uint64_t first, float weight, int count, float* sum,
                             float* scratch);
    // The same for a [rows, n] tensor whose row 0 here is row `first`: sums[i, j] = fma(weight[i], z[i, j], sums[i,
    // j]). If plus and minus are both zero, sums[i, j] doesn't change.
    void (*accumulate_rows)(const NoiseStream& stream, std::uint64_t first, const float* weight, int rows, int n,
                            Panels plus, Panels minus, Panels sums, float* scratch);
    // The same for a [rows, k] tensor whose element (i, j) belongs to column units[i, j] of sums. plus and minus are
    // [rows, k] too, row-major.
    void (*accumulate_units)(const NoiseStream& stream, std::uint64_t first, const float* weight,
                             const std::int32_t* units, int rows, int k, const float* plus, const float* minus,
                             Panels sums, float* scratch);
    // out[i, j] = sums[i % period, j], then fma(change, weights[unit, j], that) for each change of row i in order.
    void (*add_changes)(RowChanges changes, Panels sums, int period, Panels weights, Panels out, int rows, int n);
    // The boundary between two layers: out = ((v + bias[j]) * enter) * leave. bias has one row; out may be v.
    void (*boundary)(Panels v, int rows, int n, Panels bias, float enter, float leave, Panels out);
    // out = v * factor, on panels.
    void (*scale)(Panels v, int rows, int n, float factor, Panels out);
    // out[i, j] = v[i, j] * factor[i].
    void (*scale_rows)(Panels v, int rows, int n, const float* factor, Panels out);
    // out = a - b.
    void (*subtract)(Panels a, Panels b, int rows, int n, Panels out);
    // out = (a + b) * factor.
    void (*add_and_scale)(Panels a, Panels b, int rows, int n, float factor, Panels out);
    // out[i] = the loss of outputs[i, count] and of the target in row first + i. The rows up to the next multiple of
    // `lanes` are read and written too.
    void (*losses)(Targets targets, std::int64_t first, Panels outputs, int rows, int count, float* out);

    // Members that differ in one unit (kernels/unit.hpp, which says what each does).
    void (*unit_perturb)(const float* sums, const float* change, float unit, int units, int samples, float* out);
    void (*unit_boundary)(float* v, const float* bias, float enter, float leave, int units, int samples);
    void (*unit_subtract)(float* v, const float* before, std::int64_t count);
    void (*unit_output_sums)(const float* changes, int* next, int end, const float* weights, int classes,
                             const UnitBatch* batch, UnitLanes* lanes);
    void (*unit_losses)(const UnitLanes* lanes, int classes, const float* bias, float enter, float leave, Loss loss,
                        float share, float* losses);
    void (*unit_activations)(const UnitRow* rows, int count, const float* sums, const float* bias, bool flush, int n,
                             float* out, std::int64_t stride, std::int32_t* nonzeros, int* found);
    void (*unit_product)(const float* a, std::int64_t stride, int rows, const std::int32_t* terms, int count,
                         const std::int32_t* every, int k, Panels b, int n, Panels out);

    // For the peak: `steps` multiply-adds in each lane of `peak_chains` independent chains. out[lanes] is their sum.
    void (*multiply_add_chains)(std::int64_t steps, float* out);

    // The primitives, on row-major arrays without gaps.
    void (*bias_add)(const float* v, const float* bias, std::int64_t rows, std::int64_t n, float* out);
    void (*multiply)(const float* v, float factor, std::int64_t count, float* out);

    // For the tests of common/elementary.hpp.
    void (*exp)(const float* x, std::int64_t count, float* out);
    void (*exp_of_nonpositive)(const float* x, std::int64_t count, float* out);
    void (*log)(const float* x, std::int64_t count, float* out);
    void (*normal_pair)(const std::uint32_t* bits0, const std::uint32_t* bits1, std::int64_t count, float* z0,
                        float* z1);
};

struct Kernels {
    const char* name;
    int lanes;            // floats in a vector
    int width;            // columns of a panel
    int peak_chains;      // of multiply_add_chains
    int tile_rows;        // largest number of rows of a product's tile
    int part_depth;       // k's of product_part(), a multiple of `width`
    int nonzero_run;      // columns of a run of Nonzeros: a multiple of `width`
    bool hardware_flush;  // whether MXCSR sets the mode; otherwise the choice of ModeKernels does
    ModeKernels ieee;
    ModeKernels ftz;
    // Copies without arithmetic: a row-major matrix with `ld` floats from row to row, to panels and back.
    void (*pack)(const float* rows, std::size_t ld, int m, int n, Panels out);
    void (*unpack)(Panels in, int m, int n, float* rows, std::size_t ld);
    // out[i, j] = in[j, i], both panels; in is [n, m].
    void (*transpose)(Panels in, int m, int n, Panels out);
    // Pairs of terms that are integers of 16 bits, in the halves of a lane: out[i, j] = in[2 i, j] and in[2 i + 1, j],
    // rounded; 0 where `in` ends before. And product_transposed() of two such matrices, over k pairs, in 32-bit
    // integers: init and c hold these in their lanes.
    void (*to_integer_terms)(Panels in, int rows, int n, Panels out);
    void (*integer_product_transposed)(Panels a, Panels b, Panels init, Panels c, int m, int n, int k);
    // out[i, j] = sums[i, j] * scale in double, rounded once where the sum is exact; row-major without gaps.
    void (*finish_sums)(Panels sums, SumType type, int m, int n, double scale, float* out);
    // Lists the elements of a [rows, k] that are not zero, and returns how many there are. Two vectors' worth beyond
    // them are written too.
    std::int64_t (*find_nonzeros)(Panels a, int rows, int k, Nonzeros out);
    // z[i] = noise element first + i.
    void (*noise)(const NoiseStream& stream, std::uint64_t first, int count, float* z, float* scratch);
    // The same for a [rows, n] tensor, of which row 0 here starts at element `first`, into panels.
    void (*noise_panels)(const NoiseStream& stream, std::uint64_t first, int rows, int n, Panels z, float* scratch);
    // Which k of n units carry noise, ascending: rows `first`, first + 1, ... of an [., k] tensor
    // (kernels/changes.hpp).
    void (*unit_positions)(const NoiseStream& stream, std::uint64_t first, int rows, int n, int k, std::int32_t* units,
                           float* scratch);
    // out[i, j] = m[i, units[i, j]], row-major; m[0, units[i, j]] where m has one row for all.
    void (*gather_units)(Panels m, bool one_row, const std::int32_t* units, int rows, int k, float* out);
    // The inputs of a layer on a batch, in double (kernels/unit.hpp).
    void (*unit_gram)(const double* inputs, std::int64_t features, int samples, std::int64_t stride, double* gram);
    void (*unit_project)(const double* inputs, std::int64_t features, std::int64_t stride, const float* direction,
                         double* out);
    void (*unit_fitness)(const float* losses, std::int64_t stride, int members, const float* weights, int samples,
                         float* fitness);
    // Which samples a unit's change has reached.
    void (*unit_reached)(const float* v, std::int64_t count, std::uint16_t* bits);
};

// Floats of scratch that kernels with noise need for strips of `n` elements, or tensors whose rows are `n` long.
std::size_t noise_scratch_size(std::int64_t n);

// Integers of scratch that product_skipping() needs for products over k: lists of terms, one for each sample of a group
// and one for all k's.
constexpr int skipping_samples = 16, integers_of_a_term = 2;
inline std::size_t skipping_scratch_size(std::int64_t k) {
    return integers_of_a_term * (skipping_samples + 1) * static_cast<std::size_t>(k);
}

// Number of rows of noise that perturb() draws at a time: enough to fill vectors if rows are short.
constexpr int noise_strip = 4096;

const Kernels& baseline_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& avx512vnni_kernels();
#endif

}  // namespace fpes
