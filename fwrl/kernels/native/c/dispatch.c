/* The entry points: each call goes to the functions for the best instructions of this machine. */

#include "calls.h"

#if defined(__GNUC__)
#define PUBLIC __attribute__((visibility("default")))
#else
#define PUBLIC
#endif

#if defined(__x86_64__)
#define FOR_EACH_VARIANT(DO) DO(baseline) DO(avx2) DO(avx512)
#else
#define FOR_EACH_VARIANT(DO) DO(baseline)
#endif

#define BOTH(DO, variant, Call, name)                                                              \
    DO(variant, Call, name##_forward) DO(variant, Call, name##_backward)
#define FOR_EACH_FUNCTION(DO, variant)                                                             \
    BOTH(DO, variant, Scan, scan)                                                                  \
    BOTH(DO, variant, ChannelScan, channel_scan)                                                   \
    BOTH(DO, variant, ProjectedScan, projected_scan)                                               \
    BOTH(DO, variant, Convolution, convolution)                                                    \
    DO(variant, Act, act)                                                                          \
    DO(variant, Residual, residual)                                                                \
    DO(variant, Draw, draw)                                                                        \
    DO(variant, Adam, adam)                                                                        \
    BOTH(DO, variant, SumNorm, sum_norm)                                                           \
    BOTH(DO, variant, BiasGelu, bias_gelu)                                                         \
    BOTH(DO, variant, GRU, gru)                                                                    \
    BOTH(DO, variant, LSTM, lstm)                                                                  \
    BOTH(DO, variant, RecurrentDelta, recurrent_delta)                                             \
    BOTH(DO, variant, FastRecurrence, fast_recurrence)                                             \
    BOTH(DO, variant, FastWeightMemory, fast_weight_memory)                                        \
    BOTH(DO, variant, SelfReferential, self_referential)                                           \
    BOTH(DO, variant, UnitSilu, unit_silu)

#define MEMBER(variant, Call, name) int (*name)(const Call *);
#define DECLARATION(variant, Call, name) int name##_##variant(const Call *);
#define POINTER(variant, Call, name) name##_##variant,
#define ENTRY_POINT(variant, Call, name)                                                           \
    PUBLIC int fwrl_##name(const Call *call) { return now()->name(call); }

typedef struct {
    const char *name;
    FOR_EACH_FUNCTION(MEMBER, )
} Variant;

#define DECLARE(variant) FOR_EACH_FUNCTION(DECLARATION, variant)
#define VARIANT(variant) {#variant, FOR_EACH_FUNCTION(POINTER, variant)},
FOR_EACH_VARIANT(DECLARE)
static const Variant variants[] = {FOR_EACH_VARIANT(VARIANT)};
enum { COUNT = sizeof variants / sizeof variants[0] };

static int chosen = -1;

/* Whether this machine has the instructions of a variant. */
PUBLIC int fwrl_supports(int variant) {
#if defined(__x86_64__)
    if (variant == 1)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (variant == 2)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma");
#endif
    return variant == 0;
}

/* Use this variant, which must be supported; -1: the last that is. Returns which it is. */
PUBLIC int fwrl_choose(int variant) {
    if (variant < 0)
        for (variant = COUNT - 1; !fwrl_supports(variant);)
            variant--;
    return chosen = variant;
}

static const Variant *now(void) {
    if (chosen < 0)
        fwrl_choose(-1);
    return &variants[chosen];
}

PUBLIC int fwrl_count(void) { return COUNT; }
PUBLIC const char *fwrl_variant(void) { return now()->name; }
/* The digest of the sources that this was built from. */
PUBLIC const char *fwrl_sources(void) { return SOURCES; }

FOR_EACH_FUNCTION(ENTRY_POINT, )
