// The packing of inputs (packed_inputs.hpp) on the host side.
#pragma once

#include "backend.hpp"
#include "packed_inputs.hpp"

FPES_NAMESPACE_BEGIN

// The inputs of the batches that a range of pairs sees, in tiles of so many samples. Taking memory is done when it is
// made.
class InputPacking {
   public:
    InputPacking(Context& context, const Network& network, PairRange pairs, const Batches& batch, int samples);
    PackedInputs pack(const Context& context, const Network& network, const Batches& batch) const;

   private:
    BatchRange batches_;
    int samples_;
    std::int64_t tiles_;
    float* columns_;
    int* order_;
    int* counts_;
    unsigned* wild_;
};

FPES_NAMESPACE_END
