// Full rank with gaussian noise.
#include "launch_full_rank.hpp"

FPES_NAMESPACE_BEGIN

template void launch_full_rank<NoiseKind::gaussian>(const Context&, Flush, const Choice&, std::int64_t,
                                                    const FullRankJob&);

template void launch_full_rank_last<NoiseKind::gaussian>(const Context&, Flush, std::int64_t, const FullRankJob&);

FPES_NAMESPACE_END
