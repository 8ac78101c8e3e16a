/* The entry points: each call goes to the functions for the best instructions of this machine. */

#include "fast_recurrence.h"
#include "fast_weight_memory.h"
#include "features.h"
#include "gru.h"
#include "lstm.h"
#include "recurrent.h"
#include "scan.h"
#include "self_referential.h"

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

typedef struct {
    const char *name;
    int (*scan_forward)(const Scan *), (*scan_backward)(const Scan *);
    int (*recurrent_forward)(const Recurrent *), (*recurrent_backward)(const Recurrent *);
    int (*fast_recurrence_forward)(const FastRecurrence *);
    int (*fast_recurrence_backward)(const FastRecurrence *);
    int (*fast_weight_memory_forward)(const FastWeightMemory *);
    int (*fast_weight_memory_backward)(const FastWeightMemory *);
    int (*gru_forward)(const GRU *), (*gru_backward)(const GRU *);
    int (*lstm_forward)(const LSTM *), (*lstm_backward)(const LSTM *);
    int (*self_referential_forward)(const SelfReferential *);
    int (*self_referential_backward)(const SelfReferential *);
    void (*features_forward)(const Features *), (*features_backward)(const Features *);
} Variant;

#define DECLARE(variant)                                                                           \
    int scan_forward_##variant(const Scan *);                                                      \
    int scan_backward_##variant(const Scan *);                                                     \
    int recurrent_forward_##variant(const Recurrent *);                                            \
    int recurrent_backward_##variant(const Recurrent *);                                           \
    int fast_recurrence_forward_##variant(const FastRecurrence *);                                 \
    int fast_recurrence_backward_##variant(const FastRecurrence *);                                \
    int fast_weight_memory_forward_##variant(const FastWeightMemory *);                            \
    int fast_weight_memory_backward_##variant(const FastWeightMemory *);                           \
    int gru_forward_##variant(const GRU *);                                                        \
    int gru_backward_##variant(const GRU *);                                                       \
    int lstm_forward_##variant(const LSTM *);                                                      \
    int lstm_backward_##variant(const LSTM *);                                                     \
    int self_referential_forward_##variant(const SelfReferential *);                               \
    int self_referential_backward_##variant(const SelfReferential *);                              \
    void features_forward_##variant(const Features *);                                             \
    void features_backward_##variant(const Features *);
#define ENTRY(variant)                                                                             \
    {#variant,                                                                                     \
     scan_forward_##variant,                                                                       \
     scan_backward_##variant,                                                                      \
     recurrent_forward_##variant,                                                                  \
     recurrent_backward_##variant,                                                                 \
     fast_recurrence_forward_##variant,                                                            \
     fast_recurrence_backward_##variant,                                                           \
     fast_weight_memory_forward_##variant,                                                         \
     fast_weight_memory_backward_##variant,                                                        \
     gru_forward_##variant,                                                                        \
     gru_backward_##variant,                                                                       \
     lstm_forward_##variant,                                                                       \
     lstm_backward_##variant,                                                                      \
     self_referential_forward_##variant,                                                           \
     self_referential_backward_##variant,                                                          \
     features_forward_##variant,                                                                   \
     features_backward_##variant},

FOR_EACH_VARIANT(DECLARE)
static const Variant variants[] = {FOR_EACH_VARIANT(ENTRY)};
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

PUBLIC int fwrl_scan_forward(const Scan *scan) { return now()->scan_forward(scan); }
PUBLIC int fwrl_scan_backward(const Scan *scan) { return now()->scan_backward(scan); }
PUBLIC int fwrl_recurrent_forward(const Recurrent *x) { return now()->recurrent_forward(x); }
PUBLIC int fwrl_recurrent_backward(const Recurrent *x) { return now()->recurrent_backward(x); }
PUBLIC int fwrl_fast_recurrence_forward(const FastRecurrence *x) {
    return now()->fast_recurrence_forward(x);
}
PUBLIC int fwrl_fast_recurrence_backward(const FastRecurrence *x) {
    return now()->fast_recurrence_backward(x);
}
PUBLIC int fwrl_fast_weight_memory_forward(const FastWeightMemory *x) {
    return now()->fast_weight_memory_forward(x);
}
PUBLIC int fwrl_fast_weight_memory_backward(const FastWeightMemory *x) {
    return now()->fast_weight_memory_backward(x);
}
PUBLIC int fwrl_gru_forward(const GRU *x) { return now()->gru_forward(x); }
PUBLIC int fwrl_gru_backward(const GRU *x) { return now()->gru_backward(x); }
PUBLIC int fwrl_lstm_forward(const LSTM *x) { return now()->lstm_forward(x); }
PUBLIC int fwrl_lstm_backward(const LSTM *x) { return now()->lstm_backward(x); }
PUBLIC int fwrl_self_referential_forward(const SelfReferential *x) {
    return now()->self_referential_forward(x);
}
PUBLIC int fwrl_self_referential_backward(const SelfReferential *x) {
    return now()->self_referential_backward(x);
}
PUBLIC void fwrl_features_forward(const Features *x) { now()->features_forward(x); }
PUBLIC void fwrl_features_backward(const Features *x) { now()->features_backward(x); }
