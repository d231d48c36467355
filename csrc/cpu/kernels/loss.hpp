// Losses (common/losses/) of rows of outputs.
#pragma once

#include "../../common/losses/losses.hpp"
#include "panels.hpp"

FPES_NAMESPACE_BEGIN

// Rows `row`, row + 1, ... of panels, one in each lane.
template <class F>
struct PanelRows {
    Panels panels;
    int row;

    FPES_INLINE F first(int j) const { return (*this)(j); }
    FPES_INLINE F operator()(int j) const {
        constexpr int width = panel_width<F>;
        return gather<F>(panel_row<F>(panels, row, j / width * width) + j % width, width);
    }
};

// The outputs of the labels of such rows, of which the last is row `rows` - 1.
template <class F>
class LabelOfRows {
   public:
    FPES_INLINE LabelOfRows(const std::int32_t* labels, const PanelRows<F>& from, int rows, int)
        : labels_(labels + from.row), from_(from), rows_(rows - from.row) {}
    FPES_INLINE F chosen() const {
        constexpr int lanes = lanes_of<F>, width = panel_width<F>;
        float chosen[lanes];
        for (int lane = 0; lane < lanes; ++lane) {
            const int label = lane < rows_ ? labels_[lane] : 0;
            chosen[lane] = panel_row<F>(from_.panels, from_.row + lane, label / width * width)[label % width];
        }
        return load<F>(chosen);
    }

   private:
    const std::int32_t* labels_;
    PanelRows<F> from_;
    int rows_;
};

// Likewise values[rows, count]; 0 beyond the last row.
template <class F>
class ValuesOfRows {
   public:
    FPES_INLINE ValuesOfRows(const float* values, const PanelRows<F>& from, int rows, int count)
        : values_(values + static_cast<std::int64_t>(from.row) * count), rows_(rows - from.row), count_(count) {}
    FPES_INLINE F operator()(int j) const {
        constexpr int lanes = lanes_of<F>;
        if (rows_ >= lanes && count_ <= most_gathered) return gather<F>(values_ + j, count_);
        float value[lanes] = {};
        for (int lane = 0; lane < smaller(lanes, rows_); ++lane) {
            value[lane] = values_[static_cast<std::int64_t>(lane) * count_ + j];
        }
        return load<F>(value);
    }

   private:
    // A gather counts in 32 bits.
    static constexpr int most_gathered = 1 << 24;

    const float* values_;
    int rows_;
    int count_;
};

template <class F>
LabelOfRows<F> target_of_rows(Label);
template <class F>
ValuesOfRows<F> target_of_rows(Values);

// out[rows] = the losses of outputs[rows, count], whose targets are those from row `first` on. The rows up to the next
// multiple of `lanes` are read and written too.
template <class F>
void losses(Targets targets, std::int64_t first, Panels outputs, int rows, int count, float* out) {
    with_loss(targets.loss, [&](auto loss) {
        using L = decltype(loss);
        using Target = typename L::Target;
        using TargetOfRows = decltype(target_of_rows<F>(Target()));
        const auto* numbers = static_cast<const typename Target::Number*>(targets.numbers);
        numbers += first * (Target::each_output ? count : 1);
        for (int row = 0; row < rows; row += lanes_of<F>) {
            const PanelRows<F> from{outputs, row};
            const TargetOfRows target(numbers, from, rows, count);
            store(out + row, L::template of<F>(count, targets.share, from, target));
        }
    });
}

FPES_NAMESPACE_END
