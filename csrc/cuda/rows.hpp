// Rows of activations, and whose they are, where members share weights: row r belongs to a place (a pair of the
// launch), a sign and a sample, in that order of significance.
#pragma once

#include <cstdint>

#include "platform.hpp"

FPES_NAMESPACE_BEGIN

struct Rows {
    std::int64_t count;        // places * signs * batch
    std::int64_t first_place;  // of row 0
    std::int64_t batch;
    int signs;  // 2, or 1 for the unperturbed network
    // Place p is pair first_pair + p / run * cycle + p % run: all pairs in a row where run and cycle are 1, or those
    // that perturb one layer. Rows of pairs outside begin ... end - 1 are computed and lead nowhere.
    std::int64_t first_pair;
    std::int64_t run;
    std::int64_t cycle;
    std::int64_t begin;
    std::int64_t end;
    std::int64_t pairs_each;  // that see the same batch
};

// Aligned, so that an array of them can lie before vectors in shared memory.
struct alignas(16) Row {
    std::int64_t pair;
    std::int64_t input;   // in x[batches * batch, features]
    std::int64_t output;  // in arrays [pairs, signs, batch] of the whole call
    int place;            // counted from the place of the tile's first row
    int sign;
    int sample;
    bool inside;
};

FPES_DEVICE std::int64_t place_of_row(const Rows& rows, std::int64_t r) {
    return rows.first_place + r / (rows.signs * rows.batch);
}

FPES_DEVICE std::int64_t pair_of_place(const Rows& rows, std::int64_t place) {
    return rows.first_pair + place / rows.run * rows.cycle + place % rows.run;
}

// Row r of a tile that starts at row `first`.
FPES_DEVICE Row row_of(const Rows& rows, std::int64_t first, std::int64_t r) {
    Row row;
    const std::int64_t place = place_of_row(rows, r);
    const std::int64_t within = r % (rows.signs * rows.batch);
    row.pair = pair_of_place(rows, place);
    row.place = static_cast<int>(place - place_of_row(rows, first));
    row.sign = static_cast<int>(within / rows.batch);
    row.sample = static_cast<int>(within % rows.batch);
    row.inside = r < rows.count && row.pair >= rows.begin && row.pair < rows.end;
    // A row outside may read what one inside reads: nobody looks at what becomes of it.
    row.input = (row.inside ? row.pair : rows.begin) / rows.pairs_each * rows.batch + row.sample;
    row.output = ((row.pair - rows.begin) * rows.signs + row.sign) * rows.batch + row.sample;
    return row;
}

FPES_NAMESPACE_END
