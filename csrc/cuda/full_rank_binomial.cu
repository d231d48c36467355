// Full rank with binomial noise.
#include "launch_full_rank.hpp"

FPES_NAMESPACE_BEGIN

template void launch_full_rank<NoiseKind::binomial>(const Context&, Flush, const Choice&, std::int64_t,
                                                    const FullRankJob&);

template void launch_full_rank_last<NoiseKind::binomial>(const Context&, Flush, std::int64_t, const FullRankJob&);

FPES_NAMESPACE_END
